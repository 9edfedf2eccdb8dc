"""The kept pairs with their images: manifests and shards in, one after the other out.

The order is that of the manifests. A pair that cannot be found where its manifest says that it is
stops the stream: what is exported is what was decided on, all of it, or nothing that looks whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from nccleaner.data.locations import check_unchanged
from nccleaner.data.reading import ShardReading
from nccleaner.errors import RunError, ShardError
from nccleaner.output.exports.fields import Fields
from nccleaner.output.manifests import manifest_paths
from nccleaner.records import OK, Limits, Shard


@dataclass(frozen=True, slots=True)
class KeptPair:
    """One kept pair.

    Attributes:
        image: The encoded image as it is in its shard.
        suffix: `jpg`, `png` or `webp`, by the image's first bytes.
        caption: Its caption, never empty.
        fields: The row of its manifest, with the fields that all pairs have.
    """

    image: bytes
    suffix: str
    caption: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class KeptOfShard:
    """A shard, its manifest, and how many pairs that lists."""

    shard: Shard
    manifest: Path
    count: int


class KeptPairs:
    """The pairs that a purge kept.

    Attributes:
        fields: What each of them has.
        shards: Where they are, in order.

    Args:
        clean: The folder of the purge's results.
        shards: What was purged.
        limits: What a sample may cost; those of the purge.

    Raises:
        RunError: Nothing was purged here, or a manifest belongs to no shard.
    """

    def __init__(self, clean: Path, *, shards: Sequence[Shard], limits: Limits) -> None:
        self._limits = limits
        paths = manifest_paths(clean)
        named = {shard.name: shard for shard in shards}
        strangers = [path for path in paths if path.stem not in named]
        if strangers:
            raise RunError(
                f"{strangers[0]} is of no shard that was scored here.",
                "Run `nccleaner purge` again.",
            )
        self.fields = Fields(paths)
        self.shards = [
            KeptOfShard(named[path.stem], path, pq.read_metadata(path).num_rows) for path in paths
        ]

    def __len__(self) -> int:
        return sum(kept.count for kept in self.shards)

    def identity(self) -> str:
        """Digests what was kept, and its scores."""
        digest = hashlib.sha256()
        for kept in self.shards:
            with kept.manifest.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{kept.shard.name} {content}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def read(self, start: int = 0) -> Iterator[KeptPair]:
        """Reads the pairs from the one with number `start` on; one image is in memory at a time.

        Shards that lie before it are not opened.

        Raises:
            ShardError: A shard has changed since it was purged, or its storage failed.
        """
        for kept in self.shards:
            if start < kept.count:
                yield from islice(self._read_shard(kept), start, None)
            start = max(start - kept.count, 0)

    def _read_shard(self, kept: KeptOfShard) -> Iterator[KeptPair]:
        shard = kept.shard
        check_unchanged(shard)
        rows = self.fields.rows(kept.manifest)
        row = next(rows, None)
        for sample in ShardReading(shard, limits=self._limits):
            if row is None:
                return
            key, fields = row
            if sample.key == key and sample.status == OK:
                assert sample.image is not None and sample.caption is not None  # noqa: PT018
                yield KeptPair(sample.image, _suffix(sample.image), sample.caption, fields)
                row = next(rows, None)
        if row is not None:
            raise ShardError(
                f"{shard.url} has no usable pair {row[0]!r}, or not in its place; its manifest "
                "does.",
                "The shard has changed since it was first read: restore it, or run `nccleaner fit` "
                "again.",
            )


class KeptPortions:
    """The kept pairs in equal portions; those that are asked for in order are read in one pass.

    Args:
        pairs: The pairs.
        size: Pairs in each portion but the last.
    """

    def __init__(self, pairs: KeptPairs, *, size: int) -> None:
        self._pairs, self._size = pairs, size
        self._stream: Iterator[KeptPair] = iter(())
        self._next: int | None = None

    def read(self, number: int) -> Iterator[KeptPair]:
        """Reads the portion with a number, from 0.

        Raises:
            ShardError: A shard has changed since it was purged, or its storage failed.
        """
        if number != self._next:
            self._stream = self._pairs.read(number * self._size)
        self._next = None
        yield from islice(self._stream, self._size)
        self._next = number + 1


def _suffix(image: bytes) -> str:
    """Names an image by its first bytes; a pair's image is known to be of one of three kinds."""
    if image.startswith(b"\x89PNG"):
        return "png"
    return "webp" if image.startswith(b"RIFF") else "jpg"
