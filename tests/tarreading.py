"""Tars made by hand, and what is read of them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from builders import LIMITS, jpeg, tar_bytes

from nccleaner.data.locations import find_shards
from nccleaner.data.reading import ShardReading
from nccleaner.records import Sample

JPEG = jpeg()


def read(path: Path) -> tuple[list[Sample], ShardReading]:
    [shard] = find_shards(path)
    reading = ShardReading(shard, limits=LIMITS)
    samples = list(reading)
    table = reading.metadata()
    assert table["key"].to_pylist() == [sample.key for sample in samples]
    return samples, reading


def read_tar(
    tmp_path: Path, members: Iterable[tuple[str | tarfile.TarInfo, bytes]]
) -> tuple[list[Sample], ShardReading]:
    path = tmp_path / "plain.tar"
    path.write_bytes(tar_bytes(members))
    return read(path)


def statuses(samples: Iterable[Sample]) -> list[tuple[str, str]]:
    return [(sample.key, sample.status) for sample in samples]


def pair(key: str, caption: str = "a red square") -> list[tuple[str, bytes]]:
    return [(f"{key}.jpg", JPEG), (f"{key}.txt", caption.encode())]


def headers(data: bytes | bytearray) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getmembers()
