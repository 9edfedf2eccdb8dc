"""Clip art in small shards, and a fit on them that many tests share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import Row, write_webdataset_shard
from smallfit import CLIPART, Clipart, read_trusted_keys, read_truth, tiny, write_csv

import nccleaner
from nccleaner.pipeline.results import FitResult, PurgeResult


@pytest.fixture(scope="session")
def clipart() -> Clipart:
    files = sorted((CLIPART / "shards").glob("*.parquet"))[:2]
    columns = ["key", "caption", "jpg"]
    table = pa.concat_tables(pq.read_table(file, columns=columns) for file in files)
    trusted = set(read_trusted_keys()[:90])
    rows, others = [], 0
    for item in table.to_pylist():
        others += item["key"] not in trusted
        if item["key"] in trusted or others <= 150:
            rows.append(Row(item["key"], item["caption"], item["jpg"]))
    keys = [row.key for row in rows if row.key in trusted]
    assert len(keys) == 90
    return Clipart(rows, keys, read_truth())


@pytest.fixture(scope="session")
def shards(clipart: Clipart, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two webdataset shards of img2dataset: 00000 with 140 pairs, 00001 with 100."""
    folder = tmp_path_factory.mktemp("clipart") / "shards"
    write_webdataset_shard(folder, "00000", clipart.rows[:140])
    write_webdataset_shard(folder, "00001", clipart.rows[140:])
    return folder


@pytest.fixture(scope="session")
def trusted_csv(clipart: Clipart, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 90 trusted pairs labelled 1, and 6 that are mismatched labelled 0."""
    path = tmp_path_factory.mktemp("trusted") / "trusted.csv"
    rows = [(key, 1) for key in clipart.trusted] + [(key, 0) for key in clipart.mismatched(6)]
    return write_csv(path, ["key", "label"], rows)


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
