from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from builders import (
    LIMITS,
    make_rows,
    write_files_shard,
    write_parquet_shard,
    write_webdataset_shard,
)
from fsspec.implementations.local import LocalFileSystem

from nccleaner.data.locations import find_shards
from nccleaner.data.reading import ShardReading
from nccleaner.data.storage import open_binary, read_bytes
from nccleaner.errors import ShardError
from nccleaner.records import OK, Shard


class FlakyFileSystem(LocalFileSystem):  # type: ignore[misc]
    """A local file system from which no more than `healthy_bytes` of a file can be read."""

    protocol = "flaky"
    healthy_bytes = 0

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> io.BytesIO:
        class Flaky(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                if self.tell() + (size or 0) > FlakyFileSystem.healthy_bytes or size == -1:
                    raise OSError("connection lost")
                return super().read(size)

        return Flaky(Path(path).read_bytes())


@pytest.fixture(autouse=True)
def flaky() -> None:
    fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)


@pytest.mark.parametrize("write", [write_webdataset_shard, write_parquet_shard, write_files_shard])
def test_storage_that_fails_is_no_damage(tmp_path: Path, write: Any) -> None:
    """A shard that could not be read must not pass for one that holds less."""
    write(tmp_path, "00000", make_rows(100))
    [shard] = find_shards(str(tmp_path))
    flaky = replace(shard, url=f"flaky://{shard.url}")
    with pytest.raises(ShardError, match="cannot be read: OSError: connection lost"):
        list(ShardReading(flaky, limits=LIMITS))


def test_storage_that_fails_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FlakyFileSystem, "healthy_bytes", 1 << 20)
    path = write_webdataset_shard(tmp_path, "00000", make_rows(600))
    (tmp_path / "00000.parquet").unlink()
    [shard] = find_shards(f"flaky://{path}")
    samples = iter(ShardReading(shard, limits=LIMITS))
    assert next(samples).status == OK
    with pytest.raises(ShardError, match="connection lost"):
        list(samples)


def test_files_are_seekable_and_closed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(range(100)))
    with open_binary(str(path)) as file:
        assert file.read(3) == b"\0\1\2"
        assert (file.seek(50), file.read(1), file.tell()) == (50, b"2", 51)
    assert file.closed
    assert read_bytes(str(path)) == bytes(range(100))
    with pytest.raises(ShardError, match="Check that it exists"):
        open_binary(str(tmp_path / "nothing"))


CHAINS = [
    "simplecache::file://{0}/00000.tar",
    "filecache::{0}/00000.tar",
    "zip://00000.tar::file://{0}/shards.zip",
    "reference://::file://{0}/reference.json",
    "https://example.org/{{00000..00009}}.tar::file://{0}/00000.tar",
    "memory://{0}::local://{0}/00000.tar",
]


@pytest.mark.parametrize("url", CHAINS)
def test_no_chain_of_storages_is_opened(tmp_path: Path, url: str) -> None:
    """Neither one that was written, nor one that a name in a listing or a run directory makes."""
    write_webdataset_shard(tmp_path, "00000", make_rows(3))
    chain = url.format(tmp_path)
    for read in (find_shards, open_binary, read_bytes):
        with pytest.raises(ShardError, match="is a chain of storages"):
            read(chain)
    shard = Shard("00000", chain, "webdataset")
    with pytest.raises(ShardError, match="is a chain of storages"):
        list(ShardReading(shard, limits=LIMITS))


def test_a_file_whose_name_is_a_chain_is_not_opened(tmp_path: Path) -> None:
    whole = write_webdataset_shard(tmp_path / "elsewhere", "secret", make_rows(3))
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "simplecache::x.tar").write_bytes(whole.read_bytes())
    with pytest.raises(ShardError, match="is a chain of storages"):
        find_shards(str(tmp_path / "shards"))
