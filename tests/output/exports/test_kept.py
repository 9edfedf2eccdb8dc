import io
import os
from pathlib import Path

import pytest
from builders import LIMITS, jpeg, make_rows, tar_bytes, write_webdataset_shard
from PIL import Image
from purged import purge_shards

from nccleaner.data.locations import find_shards
from nccleaner.errors import RunError, ShardError
from nccleaner.output.exports.kept import KeptPairs, KeptPortions


def encoded(kind: str) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(data, kind)
    return data.getvalue()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for number, count in enumerate((5, 4, 3)):
        rows = make_rows(count, shard_id=number)
        write_webdataset_shard(tmp_path / "shards", f"{number:05d}", rows)
    return tmp_path / "shards"


@pytest.fixture
def pairs(shards: Path, tmp_path: Path) -> KeptPairs:
    """Of the first shard 3 pairs, of the second none, of the third all."""
    return purge_shards(
        shards,
        tmp_path / "clean",
        lambda key: key[4] != "1" and key not in ("000000001", "000000003"),
    )


def test_pairs_come_in_the_order_of_the_shards_with_what_they_were(pairs: KeptPairs) -> None:
    own = {row.key: row for number in (0, 2) for row in make_rows(5, shard_id=number)}
    found = list(pairs.read())
    assert len(found) == len(pairs) == 6
    assert [(p.fields["shard"], p.fields["key"]) for p in found] == [
        *(("00000", f"00000000{row}") for row in (0, 2, 4)),
        *(("00002", f"00002000{row}") for row in (0, 1, 2)),
    ]
    for pair in found:
        row = own[pair.fields["key"]]
        assert (pair.image, pair.caption, pair.suffix) == (row.image, row.caption, "jpg")
        assert pair.fields["url"] == row.fields["url"]
    assert [p.fields["row"] for p in found] == list(range(6))


@pytest.mark.parametrize("start", range(8))
def test_reading_starts_anywhere(pairs: KeptPairs, start: int) -> None:
    everything = list(pairs.read())
    assert list(pairs.read(start)) == everything[start:]


def test_shards_before_the_start_are_not_opened(pairs: KeptPairs, shards: Path) -> None:
    (shards / "00000.tar").unlink()
    assert len(list(pairs.read(3))) == 3
    with pytest.raises(ShardError, match=r"00000\.tar"):
        list(pairs.read(2))


def test_images_are_known_by_their_content(tmp_path: Path) -> None:
    images = [jpeg(), encoded("PNG"), encoded("WEBP"), jpeg()]
    suffixes = ["jpeg", "png", "webp", "png"]  # the last one lies
    members = [
        member
        for number, (suffix, image) in enumerate(zip(suffixes, images, strict=True))
        for member in ((f"{number}.{suffix}", image), (f"{number}.txt", b"a caption"))
    ]
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "a.tar").write_bytes(tar_bytes(members))
    pairs = purge_shards(tmp_path / "shards", tmp_path / "clean", lambda _: True)
    assert [(p.suffix, p.image) for p in pairs.read()] == [
        ("jpg", images[0]),
        ("png", images[1]),
        ("webp", images[2]),
        ("jpg", images[3]),
    ]


@pytest.mark.parametrize("lost", ["last", "order", "caption", "cut"])
def test_a_shard_that_changed_without_a_trace_is_an_error(
    pairs: KeptPairs, shards: Path, lost: str
) -> None:
    """Size and time are as they were; only the content tells."""
    path = shards / "00002.tar"
    before = path.stat()
    rows = make_rows(3, shard_id=2)
    members = [
        member
        for row in {"last": rows[:2], "order": rows[::-1]}.get(lost, rows)
        for member in ((f"{row.key}.jpg", row.image), (f"{row.key}.txt", row.caption.encode()))
    ]
    if lost == "caption":
        members[-1] = (members[-1][0], b"  ")
    content = tar_bytes(members)[: 3000 if lost == "cut" else None]
    path.write_bytes(content.ljust(before.st_size, b"\0")[: before.st_size])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ShardError, match="has no usable pair"):
        list(pairs.read())


def test_a_shard_with_another_time_is_refused(pairs: KeptPairs, shards: Path) -> None:
    os.utime(shards / "00000.tar", ns=(0, 0))
    with pytest.raises(ShardError, match="has changed"):
        next(pairs.read())


def test_manifests_of_unknown_shards_are_refused(pairs: KeptPairs, shards: Path) -> None:
    clean = pairs.shards[0].manifest.parents[1]
    known = find_shards(shards)[:2]
    with pytest.raises(RunError, match=r"00002\.parquet"):
        KeptPairs(clean, shards=known, limits=LIMITS)


def test_the_identity_is_that_of_what_was_kept(shards: Path, tmp_path: Path) -> None:
    one = purge_shards(shards, tmp_path / "one", lambda _: True)
    same = purge_shards(shards, tmp_path / "same", lambda _: True)
    other = purge_shards(shards, tmp_path / "other", lambda key: key != "000000000")
    assert one.identity() == same.identity() != other.identity()


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 1, 2]])
def test_portions_are_the_same_in_any_order(pairs: KeptPairs, order: list[int]) -> None:
    everything = list(pairs.read())
    portions = KeptPortions(pairs, size=2)
    for number in order:
        assert list(portions.read(number)) == everything[2 * number : 2 * number + 2]


def test_after_a_portion_that_was_left_the_next_one_is_whole(pairs: KeptPairs) -> None:
    portions = KeptPortions(pairs, size=2)
    next(portions.read(0))
    assert list(portions.read(1)) == list(pairs.read())[2:4]


def test_portions_in_order_are_read_in_one_pass(pairs: KeptPairs, shards: Path) -> None:
    portions = KeptPortions(pairs, size=1)
    everything = list(pairs.read())
    assert list(portions.read(0)) == everything[:1]
    (shards / "00000.tar").unlink()  # what is open stays readable
    assert list(portions.read(1)) == everything[1:2]
    with pytest.raises(ShardError, match=r"00000\.tar"):
        list(portions.read(0))
