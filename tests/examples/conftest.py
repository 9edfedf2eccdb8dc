"""A folder in which examples are typed: shards, a trusted file, a finished run, an export."""

from __future__ import annotations

import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from smallfit import Clipart, read_clipart, tiny

import nccleaner

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

Typed = Callable[..., None]


@pytest.fixture(scope="session")
def clipart() -> Clipart:
    return read_clipart()


@pytest.fixture(scope="session")
def prepared(clipart: Clipart, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    shards = clipart.write_shards(folder / "shards")
    trusted = clipart.write_trusted(folder / "trusted.csv")
    nccleaner.fit(shards, meta=trusted, run=folder / "nccleaner-run", config=tiny())
    nccleaner.purge(folder / "nccleaner-run")
    nccleaner.export(folder / "nccleaner-run", folder / "cleaned", samples_per_shard=100)
    return folder


@pytest.fixture
def workspace(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of all that, which is the current folder."""
    folder = shutil.copytree(prepared, tmp_path / "workspace")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def type_example(monkeypatch: pytest.MonkeyPatch) -> Typed:
    """Runs an example as `python examples/SCRIPT ARGUMENTS` does."""

    def run(script: str, *arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")

    return run
