from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from builders import (
    LIMITS,
    jpeg,
    make_rows,
    serve,
    write_files_shard,
    write_parquet_shard,
    write_webdataset_shard,
)

from nccleaner.data.locations import expand_braces, find_shards
from nccleaner.data.reading import ShardReading
from nccleaner.errors import ShardError
from nccleaner.records import OK, Shard


def names(shards: list[Shard]) -> list[str]:
    return [shard.name for shard in shards]


def captions(shard: Shard) -> list[str | None]:
    reading = ShardReading(shard, limits=LIMITS)
    samples = list(reading)
    assert {sample.status for sample in samples} == {OK}
    assert reading.problem == ""
    assert reading.metadata()["caption"].to_pylist() == [sample.caption for sample in samples]
    return [sample.caption for sample in samples]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with serve(tmp_path) as url:
        yield url


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


# What is found


def test_webdataset_folder(tmp_path: Path) -> None:
    for number in (2, 0, 1):
        write_webdataset_shard(tmp_path, f"{number:05d}", make_rows(2, shard_id=number))
    (tmp_path / "00002.parquet").unlink()
    (tmp_path / "00002_stats.json").unlink()
    (tmp_path / "notes.txt").write_text("not a shard")
    (tmp_path / "_tmp").mkdir()
    (tmp_path / "._00000.tar").write_bytes(b"left by a file manager")

    shards = find_shards(tmp_path)

    assert names(shards) == ["00000", "00001", "00002"]
    assert {shard.kind for shard in shards} == {"webdataset"}
    first, last = shards[0], shards[2]
    assert first.url == str(tmp_path / "00000.tar")
    assert first.sidecar_url == str(tmp_path / "00000.parquet")
    assert first.stats_url == str(tmp_path / "00000_stats.json")
    assert first.size_bytes == (tmp_path / "00000.tar").stat().st_size
    assert (last.sidecar_url, last.stats_url) == (None, None)


def test_parquet_folder(tmp_path: Path) -> None:
    for number in (1, 0):
        write_parquet_shard(tmp_path, f"{number:05d}", make_rows(1, shard_id=number))
    shards = find_shards(tmp_path)
    assert [(s.name, s.kind, s.sidecar_url) for s in shards] == [
        ("00000", "parquet", None),
        ("00001", "parquet", None),
    ]


def test_files_folder(tmp_path: Path) -> None:
    for number in (1, 0):
        write_files_shard(tmp_path, f"{number:05d}", make_rows(2, shard_id=number))
    write_files_shard(tmp_path, "00002", [])  # every download failed, only the sidecar tells
    (tmp_path / "_tmp").mkdir()
    (tmp_path / "empty").mkdir()

    shards = find_shards(tmp_path)

    assert [(s.name, s.kind, s.size_bytes) for s in shards] == [
        ("00000", "files", 0),
        ("00001", "files", 0),
        ("00002", "files", 0),
    ]
    assert shards[0].sidecar_url == str(tmp_path / "00000.parquet")
    assert shards[0].stats_url == str(tmp_path / "00000_stats.json")
    assert shards == find_shards(f"{tmp_path}/*")


def test_folder_of_images_is_a_shard(tmp_path: Path) -> None:
    folder = tmp_path / "photos.v2"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(jpeg())
    [shard] = find_shards(folder)
    assert (shard.name, shard.kind, shard.url) == ("photos.v2", "files", str(folder))


def test_names_lose_their_extension_only(tmp_path: Path) -> None:
    for file in ("cc3m-train-0000.tar", "a.b.tar", "c.tar.gz", "d.tgz", "E.TAR"):
        (tmp_path / file).write_bytes(b"")
    assert names(find_shards(tmp_path)) == ["E", "a.b", "c", "cc3m-train-0000", "d"]


def test_globs_braces_and_lists_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/00", "a/01", "a/02", "b/10", "c/20"):
        write_webdataset_shard(tmp_path / name[0], name[2:], make_rows(1))
    monkeypatch.chdir(tmp_path)
    assert names(find_shards("a/*.tar")) == ["00", "01", "02"]
    assert names(find_shards("a/*")) == ["00", "01", "02"]
    assert names(find_shards("*/?0.*")) == ["00", "10", "20"]
    assert names(find_shards("[ab]")) == ["00", "01", "02", "10"]
    assert names(find_shards("a/{00..01}.tar")) == ["00", "01"]
    assert names(find_shards("a/{00,02}.{tar,parquet}")) == ["00", "02"]
    assert names(find_shards([Path("c"), "b/*.tar", "a/{01..02}.tar"])) == ["01", "02", "10", "20"]
    assert names(find_shards(["a", "a/00.tar", "a/*.tar"])) == ["00", "01", "02"]
    assert find_shards("a/00.tar")[0].url == str(tmp_path / "a" / "00.tar")


def test_characters_of_globs_in_real_names(tmp_path: Path) -> None:
    path = write_webdataset_shard(tmp_path / "data[1] {x}", "00", make_rows(1))
    assert names(find_shards(path)) == ["00"]
    assert names(find_shards(path.parent)) == ["00"]


def test_links_to_shards_are_shards(tmp_path: Path) -> None:
    write_webdataset_shard(tmp_path / "a", "00", make_rows(1))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "01.tar").symlink_to(tmp_path / "a" / "00.tar")
    [shard] = find_shards(tmp_path / "b")
    assert shard.size_bytes == (tmp_path / "a" / "00.tar").stat().st_size
    write_files_shard(tmp_path / "c", "02", make_rows(1))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "03").symlink_to(tmp_path / "c" / "02")
    assert names(find_shards(tmp_path / "d")) == ["03"]


@pytest.mark.parametrize(
    ("pattern", "expanded"),
    [
        ("plain", ["plain"]),
        ("{08..11}.tar", ["08.tar", "09.tar", "10.tar", "11.tar"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{000..2}", ["000", "001", "002"]),
        ("{a,b}{1..2}", ["a1", "a2", "b1", "b2"]),
        ("{a,b{1..2}}", ["a", "b1", "a", "b2"]),
        ("{,x}y", ["y", "xy"]),
        ("{single} {}", ["{single} {}"]),
        ("{2..1}", []),
    ],
)
def test_braces(pattern: str, expanded: list[str]) -> None:
    assert list(expand_braces(pattern)) == expanded


# What changes with the content


@pytest.mark.parametrize("write", [write_webdataset_shard, write_parquet_shard, write_files_shard])
def test_version_changes_with_the_content_and_only_then(tmp_path: Path, write: object) -> None:
    assert callable(write)
    path = write(tmp_path, "00000", make_rows(2))
    target = next(path.glob("*.jpg")) if path.is_dir() else path
    os.utime(target, (1000, 1000))
    [before] = find_shards(tmp_path)
    assert find_shards(tmp_path) == [before]
    os.utime(target, (2000, 2000))
    [after] = find_shards(tmp_path)
    assert after.version != before.version


def test_version_changes_with_the_sidecar(tmp_path: Path) -> None:
    write_webdataset_shard(tmp_path, "00000", make_rows(2))
    [before] = find_shards(tmp_path)
    os.utime(tmp_path / "00000.parquet", (1000, 1000))
    [after] = find_shards(tmp_path)
    assert after.version != before.version


# What cannot be used


def test_one_name_in_two_folders_is_refused(tmp_path: Path) -> None:
    first = write_webdataset_shard(tmp_path / "a", "00000", make_rows(1))
    second = write_webdataset_shard(tmp_path / "b", "00000", make_rows(1))
    with pytest.raises(ShardError) as caught:
        find_shards([tmp_path / "a", tmp_path / "b"])
    assert f"Two shards have the name 00000: {first} and {second}." in str(caught.value)


def test_nothing_found_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("url,caption")
    for source in (tmp_path, tmp_path / "*.tar", tmp_path / "*"):
        with pytest.raises(ShardError, match=r"No shards at .* Looked for tars \(.tar, .tar.gz"):
            find_shards(source)
    with pytest.raises(ShardError, match="No shards were named"):
        find_shards([])


@pytest.mark.parametrize("source", ["", "/", "/data*"])
def test_shards_one_level_down_are_pointed_out(tmp_path: Path, source: str) -> None:
    folder = tmp_path / "data" / "deep" / "shards"
    write_webdataset_shard(folder, "00000", make_rows(1))
    (tmp_path / "data" / "deep" / "empty").mkdir()
    with pytest.raises(ShardError, match=rf"No shards at .* one level down, in {folder}: name"):
        find_shards(f"{tmp_path}/data/deep")
    with pytest.raises(ShardError, match=r"No shards at .* Looked for tars"):
        find_shards(f"{tmp_path}{source}")


def test_sidecars_alone_are_no_shards(tmp_path: Path) -> None:
    write_webdataset_shard(tmp_path, "00000", make_rows(1)).unlink()
    with pytest.raises(ShardError, match="No shards at"):
        find_shards(tmp_path)


def test_named_files_must_be_there_and_be_shards(tmp_path: Path) -> None:
    write_webdataset_shard(tmp_path, "00000", make_rows(1))
    with pytest.raises(ShardError, match=r"00001\.tar cannot be read: FileNotFoundError"):
        find_shards(f"{tmp_path}/{{00000..00001}}.tar")
    with pytest.raises(ShardError, match=r"nothing does not exist\."):
        find_shards(tmp_path / "nothing")
    with pytest.raises(ShardError, match=r"00000_stats\.json is not a shard\."):
        find_shards(tmp_path / "00000_stats.json")
    with pytest.raises(ShardError, match="nosuch://x cannot be read: "):
        find_shards("nosuch://x")


# Other storages


def test_memory(tmp_path: Path, memory: fsspec.AbstractFileSystem) -> None:
    rows = make_rows(3)
    expected = [row.caption for row in rows]
    write_webdataset_shard(tmp_path / "tars", "00000", rows)
    write_parquet_shard(tmp_path / "tables", "00000", rows)
    write_files_shard(tmp_path / "files", "00000", rows)
    for folder in ("tars", "tables", "files"):
        memory.put(str(tmp_path / folder), f"/{folder}", recursive=True)
        [shard] = find_shards(f"memory://{folder}")
        assert shard.url.startswith(f"memory:///{folder}/00000")
        assert captions(shard) == expected
        assert find_shards(f"memory://{folder}/*") == [shard]
    [before] = find_shards("memory://tars")
    memory.pipe("/tars/00000.tar", b"other")
    assert find_shards("memory://tars")[0].version != before.version


def test_web_server_without_listing(tmp_path: Path, server: str) -> None:
    for number in (0, 1):
        write_webdataset_shard(tmp_path / "tars", f"{number:05d}", make_rows(3, shard_id=number))
    write_parquet_shard(tmp_path, "table", make_rows(3))
    (tmp_path / "tars" / "00001.parquet").unlink()
    (tmp_path / "tars" / "00001_stats.json").unlink()

    shards = find_shards([f"{server}/tars/{{00000..00001}}.tar", f"{server}/table.parquet?v=1"])

    assert names(shards) == ["00000", "00001", "table"]
    assert shards[0].url == f"{server}/tars/00000.tar"
    assert shards[0].sidecar_url == f"{server}/tars/00000.parquet"
    assert shards[0].stats_url == f"{server}/tars/00000_stats.json"
    assert (shards[1].sidecar_url, shards[1].stats_url) == (None, None)
    assert shards[0].size_bytes == (tmp_path / "tars" / "00000.tar").stat().st_size
    assert shards[0].version
    assert captions(shards[0]) == captions(shards[2]) == [row.caption for row in make_rows(3)]


def test_web_server_larger_than_a_block(tmp_path: Path, server: str) -> None:
    rows = make_rows(3)
    path = write_webdataset_shard(tmp_path, "00000", rows)
    with path.open("ab") as file:
        file.truncate(20_000_000)
    [shard] = find_shards(f"{server}/00000.tar")
    assert len(captions(shard)) == 3


def test_web_server_that_fails(tmp_path: Path, server: str) -> None:
    path = write_webdataset_shard(tmp_path, "00000", make_rows(1))
    with pytest.raises(ShardError, match=r"00001\.tar cannot be read: ClientResponseError: 404"):
        find_shards(f"{server}/{{00000..00001}}.tar")
    for listing in (f"{server}/", f"{server}/*.tar"):
        with pytest.raises(ShardError, match="a web server cannot be listed"):
            find_shards(listing)
    [shard] = find_shards(f"{server}/00000.tar")
    path.unlink()
    with pytest.raises(ShardError, match=r"00000\.tar cannot be read: FileNotFoundError"):
        list(ShardReading(shard, limits=LIMITS))
    with pytest.raises(ShardError, match=r"00000\.tar cannot be read: ClientConnectorError"):
        find_shards("http://127.0.0.1:9/00000.tar")


def test_a_shard_whose_name_no_table_can_hold_is_refused(tmp_path: Path) -> None:
    write_webdataset_shard(tmp_path, "00000", make_rows(1))
    (tmp_path / "00000.tar").rename(tmp_path / os.fsdecode(b"caf\xe9.tar"))
    with pytest.raises(ShardError, match="gives no name") as caught:
        find_shards(tmp_path)
    assert "Rename it" in caught.value.next_step
