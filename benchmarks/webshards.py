"""Writes pairs as img2dataset's `webdataset` output, and the small tables beside it.

The same pairs give the same bytes. Pairs stream: one shard's rows are in memory, one image.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from PIL import Image

from nccleaner.data.writing import (
    DOWNLOAD_SCHEMA,
    download_fields,
    sample_members,
    shard_stats,
    write_tar,
)
from nccleaner.files import write_json, write_parquet

SAMPLES_PER_SHARD = 1_000

Name = tuple[str, str]  # shard and key


class Pair(NamedTuple):
    """An encoded image with a caption, its own or another's, and the URL it came from."""

    url: str
    image: bytes
    caption: str


def write_shards(folder: Path, pairs: Iterable[Pair]) -> list[Name]:
    """Writes pairs in their order into a new folder; returns their names."""
    folder.mkdir()
    names = []
    for number, portion in enumerate(_portions(pairs)):
        shard = f"{number:05d}"
        names += [(shard, key) for key in _write_shard(folder, shard, portion)]
    return names


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a small table with Unix line ends."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _portions(pairs: Iterable[Pair]) -> Iterator[Iterator[Pair]]:
    """Cuts a stream into the streams of shards, each to be used up before the next."""
    stream = iter(pairs)
    for first in stream:
        yield chain([first], islice(stream, SAMPLES_PER_SHARD - 1))


def _write_shard(folder: Path, name: str, pairs: Iterable[Pair]) -> list[str]:
    """Writes the tar, the Parquet file and the statistics of one shard; returns its keys."""
    digits = len(str(SAMPLES_PER_SHARD - 1))
    rows: list[dict[str, object]] = []

    def members() -> Iterator[tuple[str, bytes]]:
        for number, pair in enumerate(pairs):
            key = f"{name}{number:0{digits}d}"
            rows.append(_fields(key, pair))
            yield from sample_members(
                key, image=pair.image, suffix="jpg", caption=pair.caption, fields=rows[-1]
            )

    write_tar(folder / f"{name}.tar", members())
    write_parquet(pa.Table.from_pylist(rows, DOWNLOAD_SCHEMA), folder / f"{name}.parquet")
    write_json(shard_stats(len(rows)), folder / f"{name}_stats.json")
    return [str(row["key"]) for row in rows]


def _fields(key: str, pair: Pair) -> dict[str, object]:
    """The row of a sample in the Parquet file, and its JSON member."""
    size_px = Image.open(io.BytesIO(pair.image)).size
    return download_fields(
        key, url=pair.url, image=pair.image, caption=pair.caption, size_px=size_px
    )
