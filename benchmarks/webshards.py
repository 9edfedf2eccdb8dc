"""Writes pairs as img2dataset's `webdataset` output, and the small tables beside it.

The same pairs give the same bytes. Pairs stream: one shard's rows are in memory, one image.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SAMPLES_PER_SHARD = 1_000

Name = tuple[str, str]  # shard and key

# What img2dataset writes.
SCHEMA = pa.schema(
    [
        ("caption", pa.string()),
        ("url", pa.string()),
        ("key", pa.string()),
        ("status", pa.string()),
        ("error_message", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("original_width", pa.int32()),
        ("original_height", pa.int32()),
        ("exif", pa.string()),
        ("sha256", pa.string()),
    ]
)


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
    rows = []
    with tarfile.open(folder / f"{name}.tar", "w") as tar:
        for number, pair in enumerate(pairs):
            row = _metadata(f"{name}{number:0{digits}d}", pair)
            rows.append(row)
            _add_member(tar, f"{row['key']}.jpg", pair.image)
            _add_member(tar, f"{row['key']}.txt", pair.caption.encode())
            _add_member(tar, f"{row['key']}.json", json.dumps(row, indent=4).encode())
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / f"{name}.parquet")
    stats = {
        "count": len(rows),
        "successes": len(rows),
        "failed_to_download": 0,
        "failed_to_resize": 0,
        "duration": 0.0,
        "start_time": 0.0,
        "end_time": 0.0,
        "status_dict": {"success": len(rows)},
    }
    (folder / f"{name}_stats.json").write_text(json.dumps(stats, indent=4))
    return [str(row["key"]) for row in rows]


def _metadata(key: str, pair: Pair) -> dict[str, object]:
    """The row of a sample in the Parquet file, and its JSON member."""
    width, height = Image.open(io.BytesIO(pair.image)).size
    return {
        "caption": pair.caption,
        "url": pair.url,
        "key": key,
        "status": "success",
        "error_message": None,
        "width": width,
        "height": height,
        "original_width": width,
        "original_height": height,
        "exif": "{}",
        "sha256": hashlib.sha256(pair.image).hexdigest(),
    }


def _add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Appends a file; a new header has a fixed time and owner: equal content gives equal bytes."""
    header = tarfile.TarInfo(name)
    header.size = len(content)
    tar.addfile(header, io.BytesIO(content))
