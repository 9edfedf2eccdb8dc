"""Clip art in small shards, and a fit on them that many tests share."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from smallfit import Clipart, read_clipart, tiny

import nccleaner
from nccleaner.pipeline.results import FitResult, PurgeResult


@pytest.fixture(scope="session")
def clipart() -> Clipart:
    return read_clipart()


@pytest.fixture(scope="session")
def shards(clipart: Clipart, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clipart.write_shards(tmp_path_factory.mktemp("clipart") / "shards")


@pytest.fixture(scope="session")
def trusted_csv(clipart: Clipart, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clipart.write_trusted(tmp_path_factory.mktemp("trusted") / "trusted.csv")


@dataclass(frozen=True)
class Fit:
    """A run directory, fitted and purged; tests copy it before they change it."""

    run: Path
    shards: Path
    result: FitResult
    purged: PurgeResult


@pytest.fixture(scope="session")
def fitted(shards: Path, trusted_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Fit:
    run = tmp_path_factory.mktemp("fitted") / "run"
    result = nccleaner.fit(shards, meta=trusted_csv, run=run, config=tiny())
    return Fit(run, shards, result, nccleaner.purge(run))


@pytest.fixture(scope="module")
def run(fitted: Fit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that the tests of a module purge again and again."""
    copy = tmp_path_factory.mktemp("purged") / "run"
    shutil.copytree(fitted.run, copy)
    return copy
