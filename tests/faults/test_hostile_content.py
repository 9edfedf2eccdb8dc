"""What strangers wrote, through all layers: shards to pages, tables, exports and the terminal."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
import tarfile
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from browser import start_browser, visit
from builders import jpeg, tar_bytes
from PIL import Image
from smallfit import TINY, read_clipart, tiny

import nccleaner
from nccleaner.data.reading import ShardReading
from nccleaner.records import OK, Limits, Shard
from nccleaner_cli.main import cli

TERMINAL = "\x1b]0;owned\x07 \x9b2J \x1b[2J \x1b[8m \x1bc \x08\x08 \r \x00 end"
CAPTIONS = {
    "terminal": TERMINAL,
    "right to left": "a \u202ecat\u202c \u2066\u200f dog",
    "script": "<script>window.harmed = 1</script>",
    "attribute": '"><img src=x onerror="window.harmed = 2">',
    "end of title": "</title></style></script><script>window.harmed = 3</script>",
    "equals": "=HYPERLINK(1)",
    "plus": "+1+1",
    "minus": "-1+1",
    "at": "@SUM(A1)",
    "tab": "\t=1+1",
    "return": "\r=1+1",
    "quotes": '"=1+1", "a"',
    "not UTF-8": "caf\ufffd",
    "markup": "[red]a[/red] :smile: {{ 7 * 7 }} %s",
}
REJECTED = {
    "ten megabytes": "caption_too_long",
    "ten megabytes of json": "caption_too_long",
    "nested": "unreadable_metadata",
    "bomb": "image_too_large",
    "vector": "undecodable_image",
    "page": "undecodable_image",
    "empty": "undecodable_image",
}
EVIL = "evil\x1b[2J<b>"  # the name of a shard


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).resize((64, 64)).save(data, "JPEG")
    return data.getvalue()


def bomb() -> bytes:
    """A JPEG that says it has 65,500 pixels a side."""
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = b"\xff\xdc\xff\xdc"
    return bytes(data)


def evil_members() -> Iterator[tuple[str | tarfile.TarInfo, bytes]]:
    for number, (name, caption) in enumerate(CAPTIONS.items()):
        key = f"{name}\x1b[2J<i>"
        yield f"{key}.jpg", picture(number)
        yield f"{key}.txt", caption.encode() if name != "not UTF-8" else b"caf\xe9"
        yield f"{key}.json", json.dumps({"width": [1, "1", None][number % 3], "n": 1e300}).encode()
    yield "ten megabytes.jpg", picture(100)
    yield "ten megabytes.txt", b"word " * (2 << 20)
    yield "ten megabytes of json.jpg", picture(101)
    yield "ten megabytes of json.json", json.dumps({"text": "word " * (2 << 20)}).encode()
    yield "nested.jpg", picture(102)
    yield "nested.json", b'{"caption":' * 100_000
    images = {"bomb": bomb(), "page": b"<html><script>x</script></html>", "empty": b""}
    images["vector"] = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'
    for name, image in images.items():
        yield f"{name}.jpg", image
        yield f"{name}.txt", b"a caption"
    link = tarfile.TarInfo("\x1b]0;owned\x07.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    yield link, b""
    for _ in range(10_000):
        yield "same.txt", b""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run on good shards and an evil one, purged so that every pair is kept."""
    folder = tmp_path_factory.mktemp("hostile content")
    clipart = read_clipart()
    shards = clipart.write_shards(folder / "shards")
    (shards / f"{EVIL}.tar").write_bytes(tar_bytes(evil_members()))
    trusted = clipart.write_trusted(folder / "trusted.csv")
    nccleaner.fit(shards, meta=trusted, run=folder / "run", config=tiny())
    nccleaner.purge(folder / "run", threshold=0)
    return folder / "run"


def test_every_sample_is_counted_once_with_its_reason(run):
    kept = pq.read_table(run / "clean" / "manifest" / f"{EVIL}.parquet")
    rejected = pq.read_table(run / "clean" / "rejected" / f"{EVIL}.parquet")
    assert kept["caption"].to_pylist() == list(CAPTIONS.values())
    assert [key.split("\x1b")[0] for key in kept["key"].to_pylist()] == list(CAPTIONS)
    reasons = dict(zip(rejected["key"].to_pylist(), rejected["reason"].to_pylist(), strict=True))
    assert reasons == {**REJECTED, "same": "duplicate_key"}
    counts = Counter(rejected["reason"].to_pylist())
    assert counts["duplicate_key"] == 9_999
    assert counts["missing_image"] == 1
    summary = json.loads((run / "clean" / "summary.json").read_text())
    assert "1 members are links" in summary["shard_problems"][EVIL]


def settings_of_tiny() -> Iterator[str]:
    for part, values in TINY.items():
        for name, value in values.items():
            yield from ("--set", f"{part}.{name}={value}")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def say(words: Sequence[str], monkeypatch, *, terminal: bool) -> str:
    """All that a command writes."""
    make = Terminal if terminal else io.StringIO
    out, err = make(), make()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        with pytest.raises(SystemExit):
            cli.main(list(words), prog_name="nccleaner")
    return out.getvalue() + err.getvalue()


# What rich writes itself: colours, and a cursor that is hidden and set back for a bar.
_OWN = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[1A|\x1b\[2K|\r")


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("mode", ["", "--quiet", "--json", "--debug"])
def test_no_command_sends_it_to_the_terminal(run, mode, terminal, monkeypatch, tmp_path):
    shards, trusted, bad = run.parent / "shards", run.parent / "trusted.csv", f"{EVIL}/\x1b[2J"
    shutil.copytree(run / "features", tmp_path / bad / "features")
    fit = ["fit", str(shards), "--meta", str(trusted), "--run", str(tmp_path / bad)]
    commands = [
        ["search", "a drawing", "--count", "300", "--run", str(run)],
        ["search", bad, "--run", str(run / bad)],
        ["score", "--run", str(run)],
        [*fit, "--on-bad-shard", "fail", *settings_of_tiny()],
    ]
    said = ""
    for words in commands:
        written = say([*words, *([mode] if mode else [])], monkeypatch, terminal=terminal)
        rest = _OWN.sub("", written) if terminal else written
        assert written, words
        assert not [char for char in rest if not char.isprintable() and char != "\n"], words
        said += rest
    assert r"\x1b[2J" in said or r"\u001b[2J" in said


def test_no_page_lets_it_live(run, monkeypatch):
    pages = [run / "clean" / "report.html", run.parent / "found.html"]
    nccleaner.report(run)
    words = ["search", CAPTIONS["script"], "--html", str(pages[1]), "--count", "300"]
    say([*words, "--run", str(run)], monkeypatch, terminal=False)
    with start_browser() as browser:
        for page in pages:
            with visit(browser, page) as seen:
                assert seen.page.evaluate("window.harmed") is None
                assert "window.harmed = 1" in seen.page.inner_text("body")
                assert [url for url in seen.requests if url != page.as_uri()] == []
                assert seen.complaints == []


def test_trainers_get_the_captions_unchanged(run, tmp_path):
    """A table for machines is no spreadsheet: `'=1+1` would be trained on as it is."""
    nccleaner.export(run, tmp_path / "table", format="csv")
    table = pd.read_csv(tmp_path / "table" / "pairs.tsv", sep="\t")
    captions = [caption.replace("\0", " ") for caption in CAPTIONS.values()]
    assert set(captions) <= set(table["title"])
    images = [Path(path).name for path in table["filepath"]]
    assert all(re.fullmatch(r"\d+\.(jpg|png|webp)", name) for name in images)

    nccleaner.export(run, tmp_path / "tars")
    with tarfile.open(tmp_path / "tars" / "00000.tar") as tar:
        texts = [tar.extractfile(m).read() for m in tar if m.name.endswith(".txt")]
    assert {caption.encode() for caption in CAPTIONS.values()} <= set(texts)


MANY = 5_000


@pytest.mark.parametrize("name", ["{}.jpg", "{}", "a.{}", "{}/"])
def test_empty_members_cost_little_memory(name, tmp_path):
    """Pairs without content, names without suffix, one key with many members, folders."""
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(MANY):
            header = tarfile.TarInfo(name.format(number))
            header.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            tar.addfile(header)
    limits = Limits(1000, 100, 5.0, 1 << 20)
    tracemalloc.start()
    reading = ShardReading(Shard("x", str(path), "webdataset"), limits=limits)
    counts = Counter(sample.status for sample in reading)
    rows = reading.metadata().num_rows
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == sum(counts.values()) == {"{}.jpg": MANY, "a.{}": 1}.get(name, 0)
    assert OK not in counts
    assert peak_bytes < 4_000_000
    assert len(reading.problem) < 300
