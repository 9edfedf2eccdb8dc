"""Run directories that somebody else made: nothing is written outside of them."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from smallfit import tiny

import nccleaner
from nccleaner.errors import RunError, ShardError
from nccleaner.pipeline.evaluate import evaluate
from nccleaner.pipeline.occupied import LOCK


@pytest.fixture
def run(fitted, tmp_path) -> Path:
    return shutil.copytree(fitted.run, tmp_path / "inside" / "run")


@pytest.fixture
def outside(tmp_path) -> Path:
    """A folder and a file that are nobody's business."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "file").write_text("precious")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def edit(path: Path, change: Callable[[dict], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def keep_set(run: Path) -> None:
    """Makes a set whose file is not there yet, as it is named by the times of the manifests."""
    for path in (run / "clean" / "manifest").iterdir():
        path.touch()
    nccleaner.KeepSet(run)


COMMANDS: dict[str, Callable[..., object]] = {
    "fit": lambda run, fitted, trusted: nccleaner.fit(
        fitted.shards, meta=trusted, run=run, config=tiny()
    ),
    "score": lambda run, *_: nccleaner.score(run),
    "purge": lambda run, *_: nccleaner.purge(run, keep_fraction=0.4),
    "index": lambda run, *_: nccleaner.index(run, kind="hnsw"),
    "evaluate": lambda run, fitted, _: evaluate(run, fitted.shards),
    "report": lambda run, *_: nccleaner.report(run),
    "KeepSet": lambda run, *_: keep_set(run),
}
LINKS = [
    *("features", "features/00000", "scores", "clean", "clean/manifest", "clean/index"),
    *("checkpoints", "embeddings", "evaluation"),
]
FILES = ["metrics.jsonl", LOCK, "run.json", "scores/00000.parquet", "clean/summary.json"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["features/00000", "clean", "metrics.jsonl", LOCK])
def test_no_command_writes_through_a_link(run, fitted, trusted_csv, outside, command, name):
    link_out(run, outside, name)
    before = contents(run.parent), contents(outside)
    with pytest.raises(RunError, match=f"{name} is a link") as caught:
        COMMANDS[command](run, fitted, trusted_csv)
    assert caught.value.next_step
    assert (contents(run.parent), contents(outside)) == before


@pytest.mark.parametrize("name", [*LINKS, *FILES])
def test_a_purge_finds_every_link(run, outside, name):
    link_out(run, outside, name)
    before = contents(outside)
    with pytest.raises(RunError, match=f"{name} is a link"):
        nccleaner.purge(run, keep_fraction=0.4)
    assert contents(outside) == before


def link_out(run: Path, outside: Path, name: str) -> None:
    """Puts what is there elsewhere, and a link in its place."""
    path = run / name
    if path.exists():
        path.rename(outside / path.name)
        path.symlink_to(outside / path.name)
    else:
        path.symlink_to(outside if "." not in path.name else outside / "file")


def test_a_run_directory_may_itself_be_reached_by_a_link(run, tmp_path):
    (tmp_path / "link").symlink_to(run)
    assert nccleaner.purge(tmp_path / "link").summary.kept > 0


NAMES = ["../../outside/x", "..", ".", "", "/tmp/x", "a/b", "a\0b"]


@pytest.mark.parametrize("file", ["run.json", "scores.json"])
@pytest.mark.parametrize("name", NAMES)
def test_shards_whose_names_lead_out_are_refused(run, fitted, outside, file, name):
    def rename(data: dict) -> None:
        data["shards"][0]["name"] = name

    edit(run / file, rename)
    before = contents(run.parent), contents(outside)
    for command in ("score", "purge", "index", "report"):
        with pytest.raises(RunError, match="is no name of a shard") as caught:
            COMMANDS[command](run, fitted, None)
        assert str(run / file) in caught.value.message
        if file == "run.json":
            break  # the others read it first, too
    assert (contents(run.parent), contents(outside)) == before


def test_features_of_shards_whose_url_is_a_chain_are_not_made(run, fitted):
    def chain(data: dict) -> None:
        data["shards"][0]["url"] = f"simplecache::file://{fitted.shards}/00000.tar"

    for file in ("run.json", "scores.json"):
        edit(run / file, chain)
    shutil.rmtree(run / "scores")
    with pytest.raises(ShardError, match="is a chain of storages"):
        nccleaner.purge(run)
    assert not list((run / "features").glob(".nccleaner-*"))


@pytest.mark.parametrize(
    "change",
    [
        {"url": 7},
        {"kind": "pickle"},
        {"size_bytes": "large"},
        {"sidecar_url": ["x"]},
        {"name": None},
    ],
)
@pytest.mark.parametrize("file", ["run.json", "scores.json"])
def test_shards_of_other_types_are_refused(run, file, change):
    edit(run / file, lambda data: data["shards"][0].update(change))
    with pytest.raises(RunError, match=f"{file} cannot be read"):
        nccleaner.purge(run)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "7", '{"shards": 7}', '{"shards": [[]]}'])
@pytest.mark.parametrize("file", ["run.json", "scores.json"])
def test_forged_json_is_refused(run, file, text):
    (run / file).write_text(text)
    with pytest.raises(RunError, match=file):
        nccleaner.purge(run)


@pytest.mark.parametrize(
    ("layout", "says", "next_step"),
    [
        (5, "has layout 5, expected 4; nccleaner 9.9 wrote it", "Use that version or a newer one"),
        (3, "has layout 3, expected 4; nccleaner 9.9 wrote it", "Run `nccleaner fit` again"),
        ("x", "has layout x, expected 4", "Run `nccleaner fit` again"),
        (None, "has layout none, expected 4", "Run `nccleaner fit` again"),
    ],
)
@pytest.mark.parametrize("command", ["score", "purge", "index", "evaluate", "report"])
def test_a_run_of_another_version_is_refused_by_name(run, fitted, layout, says, next_step, command):
    def change(data: dict) -> None:
        data["versions"]["nccleaner"] = "9.9"
        data["layout"] = layout
        if layout is None:
            del data["layout"]

    edit(run / "run.json", change)
    before = contents(run)
    with pytest.raises(RunError, match=says) as caught:
        COMMANDS[command](run, fitted, None)
    assert caught.value.next_step.startswith(next_step)
    assert contents(run) == before


def test_a_fit_goes_into_the_directory_of_another_version(run, fitted, trusted_csv):
    edit(run / "run.json", lambda data: data.update(layout=99))
    nccleaner.fit(fitted.shards, meta=trusted_csv, run=run, config=tiny())
    assert json.loads((run / "run.json").read_text())["layout"] == 4
    assert nccleaner.purge(run).summary.kept > 0


@pytest.mark.parametrize("mask", [0o077, 0o002])
def test_modes_follow_the_umask(run, fitted, trusted_csv, tmp_path, mask):
    made = tmp_path / "made"
    old = os.umask(mask)
    try:
        nccleaner.fit(fitted.shards, meta=trusted_csv, run=made / "run", config=tiny())
        nccleaner.purge(made / "run")
        nccleaner.index(made / "run", kind="hnsw")
        nccleaner.report(made / "run")
        for kind in ("webdataset", "csv", "clip-retrieval", "datacomp"):
            nccleaner.export(made / "run", made / kind, format=kind)
        nccleaner.corrupt(fitted.shards, made / "corrupted", ratio=0.2, seed=0, kind="random")
    finally:
        os.umask(old)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in made.rglob("*")}
    assert len(modes) > 60
    for path, mode in modes.items():
        assert mode == (0o777 if path.is_dir() else 0o666) & ~mask, path
