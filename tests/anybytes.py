"""Bytes of any kind, read as all that they may be to the reader of shards, and what must hold.

read_as_shards(data, folder)     # as a tar, alone and beside img2dataset's notes, JSON or Parquet
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
from builders import LIMITS, make_rows, row_members, tar_bytes, write_sidecar

from nccleaner.data.reading import ShardReading
from nccleaner.records import DUPLICATE_KEY, OK, REJECT_REASONS, Shard

ROWS = make_rows(3)
KEYS = {row.key for row in ROWS}
TAR = tar_bytes(member for row in ROWS for member in row_members(row))


def read_as_shards(data: bytes, folder: Path) -> None:
    """Reads the bytes, in files of a folder of their own, and checks each reading."""
    for shard in _shards(data, folder):
        reading = ShardReading(shard, limits=LIMITS)
        samples = list(reading)
        _check(shard, reading, samples)


def _shards(data: bytes, folder: Path) -> Iterator[Shard]:
    """Writes the bytes as what their beginning says; others are a tar."""
    tar, sidecar, stats = folder / "x.tar", folder / "x.parquet", folder / "x_stats.json"
    if data.startswith(b"PAR1"):
        sidecar.write_bytes(data)
        tar.write_bytes(TAR)
        yield Shard("x", str(sidecar), "parquet")
        yield Shard("x", str(tar), "webdataset", sidecar_url=str(sidecar))
    elif data.startswith((b"{", b"[")):
        stats.write_bytes(data)
        tar.write_bytes(TAR)
        yield Shard("x", str(tar), "webdataset", stats_url=str(stats))
        image = ROWS[0].image
        members = [("a.jpg", image), ("a.json", data), ("b.jpg", image), ("b.json", data)]
        members += [("b.txt", b"a caption"), ("c.jpg", image), ("c.json", b'{"width": 3}')]
        tar.write_bytes(tar_bytes(members))
        yield Shard("x", str(tar), "webdataset")
    else:
        tar.write_bytes(data)
        write_sidecar(folder, "x", ROWS)
        yield Shard("x", str(tar), "webdataset")
        yield Shard("x", str(tar), "webdataset", sidecar_url=str(sidecar), stats_url=str(stats))


def _check(shard: Shard, reading: ShardReading, samples: list) -> None:
    """Every sample is told of once, pairs are pairs, and all of it can be written."""
    table, problem = reading.metadata(), reading.problem
    assert table["key"].to_pylist() == [sample.key for sample in samples]
    first = [sample.key for sample in samples if sample.status != DUPLICATE_KEY]
    assert len(first) == len(set(first))
    for sample in samples:
        if sample.status == OK:
            assert sample.image is not None
            assert sample.caption
            assert sample.caption.strip()
        else:
            assert sample.status in REJECT_REASONS
            assert sample.detail
    if shard.sidecar_url is not None and shard.stats_url is not None:
        assert {sample.key for sample in samples} >= KEYS
    pq.write_table(table, io.BytesIO())
    json.dumps([problem, *(sample.detail for sample in samples)], ensure_ascii=False).encode()
