"""One shard in, its samples out: each exactly once, a pair or a reject with its reason.

Reading streams: one sample is in memory at a time. What stays are the keys and, until `metadata()`
is asked for, the shard's own columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa

from nccleaner.data.grouped import GroupedSamples
from nccleaner.data.metadata import read_successes
from nccleaner.data.parquet import ParquetSamples
from nccleaner.records import (
    DUPLICATE_KEY,
    MISSING_IMAGE,
    TRUNCATED_SHARD,
    Limits,
    Sample,
    Shard,
)


class ShardReading:
    """Reads one shard, once.

        reading = ShardReading(shard, limits=limits)
        for sample in reading:
            ...
        table, problem = reading.metadata(), reading.problem

    Damage inside a shard is no error: the good samples are yielded, the damaged ones are rejects,
    and `problem` says what was found. The image is the encoded bytes; whether it decodes is decided
    later. The caption is a sample's `txt`, else `caption` or `text` in its `json`, else the
    sidecar's, and is not changed in any way, except that bytes that are no UTF-8 become U+FFFD.

    Args:
        shard: What to read.
        limits: What a sample may cost; larger ones are rejects.

    Raises:
        ShardError: While iterating, if the storage fails: not found, not allowed, no answer.
    """

    def __init__(self, shard: Shard, *, limits: Limits) -> None:
        self._shard = shard
        self._limits = limits
        self._source: GroupedSamples | ParquetSamples | None = None
        self._problems: list[str] = []
        self._keys: list[str] = []
        self._finished = False

    def __iter__(self) -> Iterator[Sample]:
        assert self._source is None, "a ShardReading is iterated once"
        kind = ParquetSamples if self._shard.kind == "parquet" else GroupedSamples
        self._source = kind(self._shard, limits=self._limits)
        seen: set[str] = set()
        images = 0
        for sample in self._source:
            images += sample.status not in (MISSING_IMAGE, TRUNCATED_SHARD)
            self._keys.append(sample.key)
            if sample.key in seen:
                yield replace(sample, status=DUPLICATE_KEY, detail="an earlier sample has this key")
            else:
                seen.add(sample.key)
                yield sample
        self._problems += self._source.problems
        self._problems += self._losses(self._source, images)
        self._finished = True

    @property
    def problem(self) -> str:
        """What is wrong with the shard as a whole; empty if nothing is. Known after iteration."""
        assert self._finished, "the shard has not been read to its end"
        return "; ".join(self._problems)

    def metadata(self) -> pa.Table:
        """Returns the shard's own columns: one row for each sample yielded, in the same order.

        Names and types are those of the Parquet sidecar or shard (without the images); rows that a
        sidecar lacks are null. Without a sidecar the columns are the fields of the samples' JSON:
        scalars and lists of scalars keep their type, a field that changes its type or holds objects
        becomes JSON text. `key` (string) is always there and never null.
        """
        assert self._finished, "the shard has not been read to its end"
        assert self._source is not None
        return self._source.metadata(self._keys)

    def _losses(self, source: GroupedSamples | ParquetSamples, images: int) -> Iterator[str]:
        """Compares the images found with what `_stats.json`, else the sidecar, counts."""
        expected, witness = source.expected_images()
        if self._shard.stats_url is not None:
            successes, problem = read_successes(self._shard.stats_url)
            if successes is not None:
                expected, witness = successes, "its _stats.json"
            else:
                yield problem
        if expected is not None and expected != images:
            yield f"{images} images found where {witness} counts {expected}"
        elif expected is None and source.is_cut():
            yield "how many samples are lost is not known"
        elif not self._keys:
            yield "it holds no samples"
