"""Commands and snippets of the documentation are run, page by page, on 500 pairs of the example."""

from __future__ import annotations

import contextlib
import csv
import shutil
from functools import partial
from pathlib import Path

import pytest
from pages import PAGES, README, ROOT, TUTORIAL, command_lines, name_of, snippets, type_line
from smallfit import tiny, write_csv

import nccleaner

CLIPART = ROOT / "examples" / "clipart"

# What is not run, and why; the part of a line that tells it.
NOT_RUN = {
    "nccleaner demo": "takes minutes; tests/cli runs its parts, and the README's figures are of it",
    "nccleaner download": "needs a web server; tests/pipeline has one on loopback",
    "--preset clip": "downloads weights; tests/pipeline runs it with a tiny tower from a file",
    "--engine ray": "tests/pipeline/test_ray_engine.py has a cluster",
    "DIR/": "benchmarks/noise.py types it",
    "f30k/": "needs a copy of Flickr30K; tests/benchmarks has small folders of its form",
    "coco": "needs a copy of MS-COCO, likewise",
    "cc152k/": "needs a copy of CC152K, likewise",
}


def why_not(line: str) -> str | None:
    return next((why for part, why in NOT_RUN.items() if part in line), None)


def runs(page: Path) -> bool:
    """Whether commands of a page are run here; the tutorial's are in `test_tutorial`."""
    return page != TUTORIAL and any(why_not(line) is None for line in command_lines(page))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A folder with what the pages speak of: shards, a trusted file, and a finished run."""
    folder = tmp_path_factory.mktemp("pages")
    for name, number in (("shards", 0), ("more-shards", 1), ("clean-shards", 1)):
        (folder / name).mkdir()
        for suffix in (".parquet", "_stats.json"):
            shutil.copy(CLIPART / "shards" / f"{number:05d}{suffix}", folder / name)
    (folder / "examples").symlink_to(CLIPART.parent)
    with (CLIPART / "trusted.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["shard"] == "00000"]
    write_csv(folder / "trusted.csv", list(rows[0]), [list(row.values()) for row in rows])
    with (CLIPART / "truth.csv").open(newline="") as file:
        truth = [row for row in csv.DictReader(file) if row["shard"] == "00000"]
    labels = [(row["key"], 1 - int(row["mismatched"])) for row in truth[::2]]
    write_csv(folder / "labels.csv", ["key", "label"], labels)
    with contextlib.chdir(folder):
        for line in ("nccleaner fit shards/ --meta trusted.csv", "nccleaner purge"):
            type_line(line)
    return folder


@pytest.mark.parametrize("page", list(filter(runs, PAGES)), ids=name_of)
def test_commands_of_a_page_run_one_after_the_other(page, fitted, tmp_path, monkeypatch):
    workspace = tmp_path / "workspace"
    shutil.copytree(fitted, workspace, symlinks=True)
    monkeypatch.chdir(workspace)
    for line in dict.fromkeys(command_lines(page)):
        if why_not(line) is None:
            result = type_line(line)
            assert result.exit_code == 0, f"{line}\n{result.output}"


@pytest.mark.parametrize(
    "page", [README, ROOT / "docs" / "report.md", ROOT / "docs" / "search.md"], ids=name_of
)
def test_snippets_of_a_page_run(page, fitted, tmp_path, monkeypatch):
    workspace = tmp_path / "workspace"
    shutil.copytree(fitted, workspace, symlinks=True)
    shutil.copytree(fitted / "nccleaner-run", workspace / "my-run")
    monkeypatch.chdir(workspace)
    monkeypatch.setattr(nccleaner, "fit", partial(nccleaner.fit, config=tiny()), raising=False)
    found = snippets(page)
    assert found
    for snippet in found:
        exec(snippet, {})
