"""Keys and scores as `purge` and `score` leave them in a run."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


def read_keys(folder):
    return {
        key
        for path in folder.glob("*.parquet")
        for key in pq.read_table(path, columns=["key"])["key"].to_pylist()
    }


def untrusted_scores(run, column):
    """key → score of the samples that nobody labelled."""
    scores = pa.concat_tables(pq.read_table(path) for path in (run / "scores").glob("*.parquet"))
    trusted = pq.read_table(run / "checkpoints" / "trusted.parquet")["key"]
    free = scores.filter(pc.invert(pc.is_in(scores["key"], value_set=trusted.combine_chunks())))
    return dict(zip(free["key"].to_pylist(), free[column].to_numpy(), strict=True))
