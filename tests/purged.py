"""Purged shards for the tests of what reads them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nccleaner.output.manifests import ManifestReport, write_manifest
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
) -> tuple[ManifestReport, pa.Table, pa.Table]:
    status = status or [OK] * len(keys)
    report = write_manifest(
        clean,
        shard=shard,
        metadata=metadata,
        scores=scores_of(keys, status, shard),
        keep=np.array(keep, bool),
        reasons=[MISMATCHED if s == OK else s for s in status],
        uids=uids or [None] * len(keys),
        first_row=first_row,
    )
    kept = pq.read_table(clean / "manifest" / f"{shard}.parquet")
    rejected = pq.read_table(clean / "rejected" / f"{shard}.parquet")
    return report, kept, rejected
