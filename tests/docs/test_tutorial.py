"""The tutorial is typed from top to bottom, on 500 pairs of clip art that a server hands out."""

from __future__ import annotations

import csv
import json
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from builders import serve
from pages import ROOT, TUTORIAL, type_line
from smallfit import CLIPART, read_truth, write_csv

# What is not typed, and why; the part of a line that tells it.
NOT_TYPED = {
    "python -m venv": "the tests have their environment",
    "pip install": "likewise",
    "--model ViT-B-32": "wants a GPU",
}
# The page on which a person judges pairs, and the file that is saved there.
JUDGED = {"judge.html": "trusted.csv", "judge-more.html": "labels.csv"}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serves the images of `urls.csv` in the current folder, but for some dead links."""
    monkeypatch.chdir(tmp_path)
    Path("examples").symlink_to(ROOT / "examples")
    table = pq.read_table(CLIPART / "shards" / "00000.parquet", columns=["key", "caption", "jpg"])
    Path("images").mkdir()
    with serve(Path("images")) as url:
        rows = [(f"{url}/gone-{number}.jpg", "a dead link") for number in range(5)]
        for row in table.to_pylist():
            Path("images", f"{row['key']}.jpg").write_bytes(row["jpg"])
            rows.append((f"{url}/{row['key']}.jpg", row["caption"]))
        write_csv(Path("urls.csv"), ["url", "caption"], rows)
        yield


@pytest.mark.slow
def test_the_tutorial_from_top_to_bottom(server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = re.findall(r"^ {4}(\S.+)$", TUTORIAL.read_text("utf-8"), re.MULTILINE)
    typed = [line for line in lines if not any(part in line for part in NOT_TYPED)]
    assert len(lines) - len(typed) == len(NOT_TYPED)
    for line in typed:
        if line.startswith("nccleaner "):
            type_command(line)
        else:
            type_script(line, monkeypatch)
        for page, labels in JUDGED.items():
            if page in line:
                judge(Path(page), Path(labels))

    with Path("trusted.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 300
    summary = json.loads(Path("nccleaner-run/clean/summary.json").read_text())
    assert summary["samples"] == 505
    assert summary["dropped"]["missing_image"] == 5
    assert Path("nccleaner-run/clean/report.html").exists()
    sizes = json.loads(Path("cleaned/sizes.json").read_text())
    assert sum(sizes.values()) == summary["kept"] > 100
    assert list(Path("logs").glob("*/checkpoints/epoch_1.pt"))


def type_command(line: str) -> None:
    """Networks that were trained for seconds may be too weak for a promise; that is told."""
    done = type_line(line)
    refused = "--target-precision" in line and "No cut-off is" in done.output
    assert done.exit_code == (1 if refused else 0), f"{line}\n{done.output}"


def type_script(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains in a process of its own, as open_clip sets up logging for good, and for one epoch."""
    python, script, *arguments = shlex.split(line)
    assert python == "python"
    if "train" in script:
        command = [sys.executable, script, *arguments, "--epochs", "1"]
        subprocess.run(command, check=True, capture_output=True)
    else:
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        runpy.run_path(script, run_name="__main__")


def judge(page: Path, labels: Path) -> None:
    """Does what a person does on the page, by the truth."""
    text = page.read_text(encoding="utf-8")
    cards = json.loads(re.search(r'type="application/json">(.*?)</script>', text, re.DOTALL)[1])
    urls = pq.read_table("shards/00000.parquet", columns=["key", "url"]).to_pylist()
    drawing = {row["key"]: Path(row["url"]).stem for row in urls}
    truth = read_truth()
    rows = [(card["shard"], card["key"], 1 - truth[drawing[card["key"]]]) for card in cards]
    write_csv(labels, ["shard", "key", "label"], rows)
