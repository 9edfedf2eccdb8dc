import gc
import io
import os
import pickle
import tarfile
from itertools import compress
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import webdataset
from builders import make_rows, write_parquet_shard, write_webdataset_shard
from purged import purge

from nccleaner.data.locations import find_shards
from nccleaner.data.reading import ShardReading
from nccleaner.errors import InputError, RunError
from nccleaner.output.keepset import KeepSet
from nccleaner.records import Limits

KEYS = [f"{i:09d}" for i in range(40)]
KEEP = [i % 3 == 0 for i in range(40)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for shard in ("00000", "00001"):
        purge(tmp_path / "run" / "clean", pa.table({"a": KEYS}), keys=KEYS, keep=KEEP, shard=shard)
    return tmp_path / "run"


def write_tar(path: Path, keys: list[str]) -> None:
    with tarfile.open(path, "w") as tar:
        for key in keys:
            for suffix, content in (("jpg", b"image"), ("txt", os.fsencode(key))):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def test_it_holds_what_was_kept(run: Path) -> None:
    keep = KeepSet(run)
    assert len(keep) == 2 * sum(KEEP)
    for key, kept in zip(KEYS, KEEP, strict=True):
        assert (("00001", key) in keep) == kept
    assert ("00002", KEYS[0]) not in keep
    assert ("00000", "x") not in keep


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_webdataset_selects_by_it(run: Path, tmp_path: Path) -> None:
    for shard in ("00000", "00001"):
        write_tar(tmp_path / f"{shard}.tar", KEYS)
    shards = str(tmp_path / "{00000..00001}.tar")
    dataset = webdataset.WebDataset(shards, shardshuffle=False).select(KeepSet(run))
    assert [s["__key__"] for s in dataset] == list(compress(KEYS, KEEP)) * 2
    gc.collect()  # webdataset leaves closing its files to the collector


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_webdataset_selects_keys_that_are_not_utf8(tmp_path: Path) -> None:
    """webdataset yields `a\\udcff` where the manifest has `a\\xff`."""
    names = [os.fsdecode(b"a\xff"), os.fsdecode(b"a\xfe"), "sch\xf6n"]
    write_tar(tmp_path / "00000.tar", names)
    shard = find_shards(tmp_path / "00000.tar")[0]
    limits = Limits(10**8, 1000, 10.0, 10**8)
    keys = [sample.key for sample in ShardReading(shard, limits=limits)]
    keep = [True, False, True]
    purge(tmp_path / "run" / "clean", pa.table({"a": keys}), keys=keys, keep=keep, shard="00000")
    dataset = webdataset.WebDataset(str(tmp_path / "00000.tar"), shardshuffle=False)
    kept = [sample["__key__"] for sample in dataset.select(KeepSet(tmp_path / "run"))]
    assert kept == list(compress(names, keep))
    gc.collect()  # webdataset leaves closing its files to the collector


@pytest.mark.parametrize(
    "url",
    [
        "00001.tar",
        "/data/00001.TAR",
        "s3://bucket/laion/00001.tar",
        "https://host/a.b/00001.tar?token=x/y.z",
        "pipe:aws s3 cp 's3://bucket/00001.tar' -",
        "pipe:curl -s https://host/00001.tar.gz | gunzip",
        "shards/00001.parquet",
    ],
)
def test_the_shard_is_known_by_its_url(run: Path, url: str) -> None:
    keep = KeepSet(run)
    assert keep({"__url__": url, "__key__": KEYS[0], "jpg": b""})
    assert not keep({"__url__": url, "__key__": KEYS[1], "jpg": b""})


def test_tables_are_filtered_by_it(run: Path) -> None:
    keep = KeepSet(run)
    table = pa.table({"shard": pa.array(["00000"] * 40).dictionary_encode(), "key": KEYS})
    kept = table.filter(keep.mask(table["shard"], table["key"]))
    assert kept["key"].to_pylist() == list(compress(KEYS, KEEP))
    assert [keep(row) for row in table.to_pylist()] == KEEP
    assert keep.mask([], []).tolist() == []


def test_a_shard_nobody_decided_on_is_an_error_and_not_dropped(run: Path) -> None:
    with pytest.raises(RunError, match="'00007' was not purged"):
        KeepSet(run)({"__url__": "00007.tar", "__key__": KEYS[0]})
    with pytest.raises(InputError, match="jpg"):
        KeepSet(run)({"jpg": b""})


def test_copies_share_the_file_and_know_when_it_is_another(run: Path) -> None:
    keep = KeepSet(run)
    (path,) = (run / "clean").glob("keepset-*.npy")
    modified = path.stat().st_mtime_ns
    text = pickle.dumps(keep)
    assert len(text) < 1_000
    copy = pickle.loads(text)
    assert len(copy) == len(keep)
    assert path.stat().st_mtime_ns == modified

    purge(run / "clean", pa.table({"a": KEYS}), keys=KEYS, keep=[False] * 40, shard="00001")
    with pytest.raises(RunError, match="purged again"):
        pickle.loads(text)
    assert len(KeepSet(run)) == sum(KEEP)
    assert ("00001", KEYS[0]) not in KeepSet(run)
    assert len(list((run / "clean").glob("keepset-*.npy"))) == 1


def test_nothing_kept_is_an_empty_set(tmp_path: Path) -> None:
    purge(tmp_path / "clean", pa.table({"a": ["0"]}), keys=["0"], keep=[False])
    keep = KeepSet(tmp_path)
    assert len(keep) == 0
    assert ("00000", "0") not in keep
    assert np.array_equal(keep.mask(["00000"], ["0"]), [False])


def test_a_run_without_a_purge_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nccleaner purge"):
        KeepSet(tmp_path)


@pytest.fixture
def parquet_shard(tmp_path: Path) -> Path:
    return write_parquet_shard(tmp_path / "shards", "00001", make_rows(40), row_group_size=7)


def test_pyarrow_reads_only_the_kept_rows(run: Path, parquet_shard: Path) -> None:
    keep = KeepSet(run)
    wanted = [row.key for row in make_rows(40) if ("00001", row.key) in keep]
    assert len(wanted) == sum(KEEP)
    assert (
        pq.read_table(parquet_shard, filters=keep.expression("00001"))["key"].to_pylist() == wanted
    )
    scanned = pyarrow.dataset.dataset(parquet_shard).to_table(filter=keep.expression("00001"))
    assert scanned["key"].to_pylist() == wanted
    with pytest.raises(RunError, match="'00007' was not purged"):
        keep.expression("00007")
    purge(run / "clean", pa.table({"a": KEYS}), keys=KEYS, keep=[False] * 40, shard="00001")
    with pytest.raises(RunError, match="purged again"):
        keep.expression("00001")
    assert len(pq.read_table(parquet_shard, filters=KeepSet(run).expression("00001"))) == 0


def test_datasets_filters_tars_by_it(run: Path, tmp_path: Path) -> None:
    for shard in ("00000", "00001"):
        write_webdataset_shard(tmp_path / "shards", shard, make_rows(40))
    loaded = datasets.load_dataset(
        "webdataset",
        data_files=str(tmp_path / "shards" / "*.tar"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    kept = loaded.filter(KeepSet(run))
    assert kept["__key__"][:] == list(compress(KEYS, KEEP)) * 2


def test_datasets_reads_only_the_kept_rows_of_parquet(
    run: Path, parquet_shard: Path, tmp_path: Path
) -> None:
    loaded = datasets.load_dataset(
        "parquet",
        data_files=str(parquet_shard),
        filters=KeepSet(run).expression("00001"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert loaded["key"][:] == list(compress(KEYS, KEEP))
