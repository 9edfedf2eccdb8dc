"""`download`: the real img2dataset against a web server on loopback."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from builders import LIMITS, jpeg
from smallfit import write_csv

import nccleaner
from nccleaner.data.downloading import _cause
from nccleaner.data.locations import find_shards
from nccleaner.data.reading import ShardReading
from nccleaner.errors import InputError, MissingDependencyError, NccleanerError, UsageError
from nccleaner.pipeline.results import DownloadResult
from nccleaner.records import MISSING_IMAGE, OK

GOOD = jpeg("green", "circle", size_px=64)
LARGE = jpeg("blue", "triangle", size_px=400)


class Site(BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        name = self.path.strip("/")
        if name.startswith("slow"):
            time.sleep(3)
        if name.isdigit():
            self.send_error(int(name))
            return
        self.send_response(200)
        if name == "forbidden":
            self.send_header("X-Robots-Tag", "noai")
        self.end_headers()
        bodies = {"large": LARGE, "page": b"<html>not here</html>"}
        self.wfile.write(bodies.get(name, GOOD))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Says nothing."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def downloaded(site: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DownloadResult]:
    """A list of 10 with two shards, downloaded."""
    folder = tmp_path_factory.mktemp("download")
    names = ["good", "large", "404", "503", "429", "403", "forbidden", "page", "slow"]
    rows = [(f"{site}/{name}", f"caption of {name}", number) for number, name in enumerate(names)]
    rows.append(("no-url", "caption of nothing", 9))
    write_csv(folder / "urls.csv", ["URL", "TEXT", "rank"], rows)
    return folder, download(folder)


def download(folder: Path) -> DownloadResult:
    return nccleaner.download(
        folder / "urls.csv",
        folder / "shards",
        samples_per_shard=6,
        timeout_s=1,
        retries=1,
        threads=4,
    )


@pytest.mark.slow
def test_what_is_missing_is_said_in_our_words(downloaded, site):
    _, result = downloaded
    assert (result.report.rows, result.report.shards, result.report.images) == (10, 2, 2)
    assert result.report.missing == {
        "not_found": 1,
        "server_error": 1,
        "too_many_requests": 1,
        "access_denied": 1,
        "forbidden_by_site": 1,
        "not_an_image": 1,
        "no_answer_in_time": 1,
        "not_a_url": 1,
    }
    assert Site.asked.count("/503") == 2  # once, and one retry
    assert Site.asked.count("/good") == 1


@pytest.mark.slow
def test_the_shards_can_be_read(downloaded):
    folder, _ = downloaded
    shards = find_shards(folder / "shards")
    assert [(shard.name, shard.kind) for shard in shards] == [
        ("00000", "webdataset"),
        ("00001", "webdataset"),
    ]
    samples, rows = {}, {}
    for shard in shards:
        reading = ShardReading(shard, limits=LIMITS)
        samples |= {sample.key: sample for sample in reading}
        rows |= {row["key"]: row for row in reading.metadata().to_pylist()}
        assert reading.problem == ""
    by_name = {row["url"].rpartition("/")[2]: samples[key] for key, row in rows.items()}
    assert {name for name, sample in by_name.items() if sample.status == OK} == {"good", "large"}
    assert {s.status for s in samples.values()} == {OK, MISSING_IMAGE}
    assert by_name["good"].caption == "caption of good"
    assert by_name["good"].image == GOOD  # small enough: its bytes are kept
    large = next(row for row in rows.values() if row["url"].endswith("/large"))
    assert (large["width"], large["height"], large["original_width"]) == (256, 256, 400)
    assert sorted(row["rank"] for row in rows.values()) == list(range(10))


@pytest.mark.slow
def test_what_is_done_is_not_done_again_and_what_is_not_is(downloaded):
    folder, result = downloaded
    shards = folder / "shards"
    Site.asked.clear()
    assert download(folder).report == result.report
    assert Site.asked == []

    kept = (shards / "00000.tar").stat().st_mtime_ns
    (shards / "00001_stats.json").unlink()  # as if it had been interrupted in the second shard
    assert download(folder).report == result.report
    assert "/good" not in Site.asked
    assert "/page" in Site.asked
    assert (shards / "00000.tar").stat().st_mtime_ns == kept


@pytest.mark.slow
def test_a_folder_of_another_list_is_refused(downloaded, site, tmp_path):
    folder, _ = downloaded
    other = write_csv(tmp_path / "urls.csv", ["url", "caption"], [(f"{site}/good", "a")])
    with pytest.raises(InputError, match="made with other arguments"):
        nccleaner.download(other, folder / "shards")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not an empty folder"):
        nccleaner.download(other, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_a_failure_of_img2dataset_is_told_with_its_last_line(tmp_path):
    urls = write_csv(tmp_path / "urls.csv", ["url", "caption"], [("http://127.0.0.1:1/x", "a")])
    out = tmp_path / "shards"
    out.mkdir()
    (out / ".nccleaner-download").write_text("")
    with pytest.raises(InputError):
        nccleaner.download(urls, out)
    (out / ".nccleaner-download").unlink()
    with pytest.raises(NccleanerError, match=r"0 of 1 shards: .*NameError") as error:
        broken_img2dataset(tmp_path, urls, out)
    assert "img2dataset.log" in error.value.next_step


def broken_img2dataset(folder: Path, urls: Path, out: Path) -> None:
    """Runs with another package of that name before the real one, as a broken install is."""
    (folder / "img2dataset.py").write_text("raise NameError('broken')")
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", str(folder))
    try:
        nccleaner.download(urls, out)
    finally:
        patch.undo()


def test_without_img2dataset_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "img2dataset", None)
    urls = write_csv(tmp_path / "urls.csv", ["url", "caption"], [("http://x/1.jpg", "a")])
    with pytest.raises(MissingDependencyError) as error:
        nccleaner.download(urls, tmp_path / "shards")
    assert error.value.next_step == "pip install 'nccleaner[download]'"


def test_arguments_that_make_no_sense_are_refused(tmp_path):
    urls = write_csv(tmp_path / "urls.csv", ["url", "caption"], [])
    with pytest.raises(InputError, match="no rows"):
        nccleaner.download(urls, tmp_path / "shards")
    for arguments in ({"timeout_s": 0}, {"retries": -1}, {"image_size_px": 0}, {"threads": 0}):
        with pytest.raises(UsageError):
            nccleaner.download(urls, tmp_path / "shards", **arguments)
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("HTTP Error 410: Gone", "not_found"),
        ("HTTP Error 502: Bad Gateway", "server_error"),
        ("HTTP Error 418: I'm a teapot", "other_http_error"),
        ("<urlopen error timed out>", "no_answer_in_time"),
        ("The read operation timed out", "no_answer_in_time"),
        ("<urlopen error [Errno -2] Name or service not known>", "unknown_host"),
        ("<urlopen error [Errno 111] Connection refused>", "connection_failed"),
        ("<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify", "bad_certificate"),
        ("Remote end closed connection without response", "connection_failed"),
        ("IncompleteRead(5 bytes read, 3 more expected)", "connection_failed"),
        ("<urlopen error no host given>", "not_a_url"),
        ("URL can't contain control characters", "not_a_url"),
        ("Image decoding error", "not_an_image"),
        ("hash mismatch", "other"),
    ],
)
def test_causes(message, cause):
    assert _cause(message) == cause


@pytest.mark.slow
def test_the_command_says_what_the_library_says(downloaded, capfd):
    folder, result = downloaded
    from click.testing import CliRunner

    from nccleaner_cli.main import cli

    words = ["download", str(folder / "urls.csv"), str(folder / "shards")]
    options = ["--samples-per-shard", "6", "--timeout", "1", "--retries", "1", "--json", "--quiet"]
    done = CliRunner().invoke(cli, [*words, *options])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["report"]["missing"] == result.report.missing
    assert "Downloaded 2 of 10 images into 2 shards" in done.stderr
    assert "not found (HTTP 404, 410)" in done.stderr
    assert capfd.readouterr() == ("", "")
