"""Purged shards for the tests of what reads them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from builders import LIMITS

from nccleaner.data.locations import find_shards
from nccleaner.data.reading import ShardReading
from nccleaner.output.exports.kept import KeptPairs
from nccleaner.output.manifests import ManifestReport, write_manifest
from nccleaner.output.summary import SUMMARY_NAME
from nccleaner.records import MISMATCHED, OK

SCORES = [
    "shard",
    "key",
    "similarity",
    "corrected_similarity",
    "clean_probability",
    "fitted",
    "status",
]


def strings(values: list[str | None]) -> pa.ChunkedArray:
    return pa.chunked_array([values], pa.string())


def scores_of(keys: list[str], status: list[str], shard: str = "00000") -> pa.Table:
    values = pa.array([0.5 if s == OK else None for s in status], pa.float32())
    return pa.table(
        [
            pa.array([shard] * len(keys), pa.string()),
            pa.array(keys, pa.string()),
            values,
            values,
            values,
            pa.array([s == OK for s in status], pa.bool_()),
            pa.array(status, pa.string()),
        ],
        names=SCORES,
    )


def purge(
    clean: Path,
    metadata: pa.Table,
    *,
    keys: list[str],
    keep: list[bool],
    status: list[str] | None = None,
    uids: list[str | None] | None = None,
    first_row: int = 0,
    shard: str = "00000",
    stamp: str = "",
) -> tuple[ManifestReport, pa.Table, pa.Table]:
    status = status or [OK] * len(keys)
    report = write_manifest(
        clean,
        shard=shard,
        metadata=metadata,
        scores=scores_of(keys, status, shard),
        keep=np.array(keep, bool),
        reasons=strings([MISMATCHED if s == OK else s for s in status]),
        uids=strings(uids or [None] * len(keys)),
        first_row=first_row,
        stamp=stamp,
    )
    (clean / SUMMARY_NAME).write_text("{}")
    kept = pq.read_table(clean / "manifest" / f"{shard}.parquet")
    rejected = pq.read_table(clean / "rejected" / f"{shard}.parquet")
    return report, kept, rejected


def purge_shards(shards: Path, clean: Path, keeps: Callable[[str], bool]) -> KeptPairs:
    """Writes the manifests of real shards, of whose pairs those stay whose key is liked."""
    found = find_shards(shards)
    row = 0
    for shard in found:
        reading = ShardReading(shard, limits=LIMITS)
        samples = [(sample.key, sample.status) for sample in reading]
        report, *_ = purge(
            clean,
            reading.metadata(),
            keys=[key for key, _ in samples],
            status=[status for _, status in samples],
            keep=[status == OK and keeps(key) for key, status in samples],
            first_row=row,
            shard=shard.name,
        )
        row += report.kept
    return KeptPairs(clean, shards=found, limits=LIMITS)
