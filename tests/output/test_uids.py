from itertools import compress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from purged import purge

from nccleaner.identity import derive_uid
from nccleaner.output import uids


def resharder_count(subset: np.ndarray, uid: str) -> int:
    """How often DataComp's resharder takes a sample with this uid."""
    number = np.array([divmod(int(uid, 16), 2**64)], np.dtype("u8,u8"))[0]
    return int(np.searchsorted(subset, number, "right") - np.searchsorted(subset, number, "left"))


def test_the_resharder_takes_each_kept_pair_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    own = [rng.bytes(16).hex() for _ in range(200)]
    own[:3] = ["0" * 32, "f" * 32, "F" * 31 + "e"]
    own[10] = own[11]
    keys = [f"{i:03d}" for i in range(200)]
    keep = (rng.random(200) < 0.5).tolist()
    keep[:3], keep[10:12] = [True] * 3, [True] * 2
    purge(tmp_path, pa.table({"uid": own}), keys=keys, keep=keep, uids=list(own), shard="a")
    purge(tmp_path, pa.table({"url": keys}), keys=keys, keep=keep, shard="b")

    derived = [derive_uid("b", key) for key in keys]
    wanted = {uid.lower() for column in (own, derived) for uid in compress(column, keep)}
    assert uids.write_uids(tmp_path) == len(wanted)
    subset = np.load(tmp_path / "uids.npy")
    assert subset.dtype == np.dtype("u8,u8")
    assert subset.shape == (len(wanted),)
    assert [f"{f0:016x}{f1:016x}" for f0, f1 in subset.tolist()] == sorted(wanted)
    for uid in own + derived:
        assert resharder_count(subset, uid) == (uid.lower() in wanted)


def test_nothing_kept_is_an_empty_file(tmp_path: Path) -> None:
    purge(tmp_path, pa.table({"a": [1]}), keys=["0"], keep=[False])
    assert uids.write_uids(tmp_path) == 0
    assert np.load(tmp_path / "uids.npy", mmap_mode="r").shape == (0,)


@pytest.mark.parametrize("bits", [64, 3])
def test_numbers_are_sorted_whole_whatever_their_spread(tmp_path: Path, bits: int) -> None:
    rng = np.random.default_rng(1)
    halves = rng.integers(0, 2**bits, size=(5_000, 2), dtype=np.uint64)
    numbers = np.ascontiguousarray(halves).view(uids.UID_DTYPE)[:, 0]
    count = uids.write_sorted(np.array_split(numbers, 7), tmp_path / "numbers.npy")
    written = np.load(tmp_path / "numbers.npy")
    assert count == len(written)
    assert np.array_equal(written, np.unique(numbers))
    assert [path.name for path in tmp_path.iterdir()] == ["numbers.npy"]
