"""Commands that are killed and started again leave what they leave undisturbed.

`NCC_KILLS` says how often they are killed, 20 times by default; `make soak` sets it to 500.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import zipfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from killing import AfterSeconds, AtRename, Ended, Fault, run_command
from smallfit import TINY, read_clipart

KILLS = int(os.environ.get("NCC_KILLS", "20"))
COMMANDS = {
    "fit": ["fit"],
    "score": ["score"],
    "purge": ["purge"],
    "index": ["index", "--kind", "hnsw"],
    "export": ["export", "exported", "--samples-per-shard", "40"],
    "purge again": ["purge", "--keep-fraction", "0.4"],
}
# What a run directory says of time; it differs from run to run.
_SECONDS = {"seconds", "training_s"}


@dataclass(frozen=True)
class Undisturbed:
    """A folder as each command finds it, and as the last one leaves it."""

    states: list[Path]
    ended: dict[str, Ended]

    def before(self, name: str) -> Path:
        return self.states[list(COMMANDS).index(name)]

    def after(self, name: str) -> Path:
        return self.states[list(COMMANDS).index(name) + 1]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    clipart = read_clipart()
    clipart.write_shards(folder / "shards")
    clipart.write_trusted(folder / "trusted.csv")
    COMMANDS["fit"] += [str(folder / "shards"), "--meta", str(folder / "trusted.csv")]
    for section, values in TINY.items():
        for setting, value in values.items():
            COMMANDS["fit"] += ["--set", f"{section}.{setting}={value}"]
    states = [folder / f"state-{number}" for number in range(len(COMMANDS) + 1)]
    states[0].mkdir()
    ended = {}
    for (before, after), (name, words) in zip(pairwise(states), COMMANDS.items(), strict=True):
        shutil.copytree(before, after)
        ended[name] = run_command(words, after)
        assert ended[name].exit_code == 0, ended[name].output
    return Undisturbed(states, ended)


def draw_fault(lot: random.Random, whole: Ended) -> Fault:
    if lot.random() < 0.6:
        return AtRename(lot.randrange(whole.renames), before=lot.random() < 0.5)
    kind = lot.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    return AfterSeconds(lot.uniform(0, whole.seconds), kind)


@pytest.mark.parametrize("kill", range(KILLS))
def test_a_command_that_is_killed_and_started_again_ends_like_one_that_is_not(
    undisturbed, tmp_path, kill
):
    lot = random.Random(kill)
    name = list(COMMANDS)[kill % len(COMMANDS)]
    folder = tmp_path / "state"
    shutil.copytree(undisturbed.before(name), folder)
    faults = [draw_fault(lot, undisturbed.ended[name]) for _ in range(lot.choice([1, 1, 2]))]
    for fault in faults:
        run_command(COMMANDS[name], folder, fault)
    ended = run_command(COMMANDS[name], folder)
    assert ended.exit_code == 0, f"{faults}\n{ended.output}"
    left, expected = contents(folder), contents(undisturbed.after(name))
    assert left.keys() == expected.keys(), faults
    assert [path for path in left if left[path] != expected[path]] == [], faults
    check_every_sample_is_in_one_place(folder)


def contents(folder: Path) -> dict[str, object]:
    """All files, byte by byte; of JSON all but times."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name.startswith("keepset-"):
            continue  # made when it is asked for, and named by when the manifests were written
        if path.is_dir():
            found[name] = None
        elif path.suffix == ".json":
            found[name] = without_times(json.loads(path.read_text("utf-8")))
        elif path.suffix == ".pt":
            found[name] = without_folder(path)
        else:
            found[name] = path.read_bytes()
    return found


def without_folder(path: Path) -> dict[str, bytes]:
    """The members of a file of torch, which names their folder after the file as it was written."""
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def without_times(data: object) -> object:
    if isinstance(data, dict):
        return {key: without_times(value) for key, value in data.items() if key not in _SECONDS}
    return data


def check_every_sample_is_in_one_place(folder: Path) -> None:
    clean = folder / "nccleaner-run" / "clean"
    if not clean.exists():
        return
    placed = [
        (path.stem, key)
        for kind in ("manifest", "rejected")
        for path in (clean / kind).glob("*.parquet")
        for key in pq.read_table(path, columns=["key"])["key"].to_pylist()
    ]
    assert len(placed) == len(set(placed)) == 240
