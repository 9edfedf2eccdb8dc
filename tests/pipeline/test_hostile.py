"""A folder with everything that goes wrong in shards from the open web."""

from __future__ import annotations

import io
import shutil
import struct
import tarfile
import zlib
from collections import Counter

import pyarrow.parquet as pq
import pytest
from builders import jpeg, tar_bytes
from smallfit import tiny

import nccleaner
from nccleaner.errors import ShardError


def huge_png(side_px: int) -> bytes:
    """A PNG of one colour, side_px square with one bit a pixel: small as a file."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side_px, side_px, 1, 0, 0, 0, 0)
    line = bytes(1 + -(-side_px // 8))
    packer = zlib.compressobj(1)
    lines = [packer.compress(line * 100) for _ in range(side_px // 100)]
    data = b"".join(lines) + packer.flush()
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def members(rows):
    return [
        member
        for row in rows
        for member in ((f"{row.key}.jpg", row.image), (f"{row.key}.txt", row.caption.encode()))
    ]


BROKEN = [b"", b"\xff\xd8\xff\xe0", b"no image at all", b"<html>404</html>", jpeg()[:200]]
REJECTS = {
    "undecodable_image": 10,
    "image_too_large": 1,
    "caption_too_long": 1,
    "empty_caption": 2,
    "missing_image": 2,
    "duplicate_key": 1,
    "truncated_shard": 1,
}


@pytest.fixture(scope="module")
def hostile(clipart, tmp_path_factory):
    """Plain tars; of the last good one the second half of the last sample is cut off."""
    folder = tmp_path_factory.mktemp("hostile") / "shards"
    folder.mkdir()
    rows = clipart.rows
    (folder / "good.tar").write_bytes(tar_bytes(members(rows[:100])))
    (folder / "empty.tar").write_bytes(b"")
    whole = tar_bytes(members(rows[100:200]))
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        last = [member for member in tar if member.name.endswith(".jpg")][-1]
    (folder / "truncated.tar").write_bytes(whole[: last.offset_data + last.size // 2])
    bad = [
        *((f"broken{n}.jpg", (BROKEN * 2)[n]) for n in range(10)),
        *((f"broken{n}.txt", b"a caption") for n in range(10)),
        ("huge.png", huge_png(30_000)),
        ("huge.txt", b"a large white square"),
        ("long.jpg", jpeg()),
        ("long.txt", b"word " * 200_000),
        ("../../x.jpg", jpeg("green")),
        ("../../x.txt", b"a green square"),
        ("/etc/passwd.jpg", jpeg("blue")),
        ("/etc/passwd.txt", b"a blue square"),
        ("blank.jpg", jpeg()),
        ("blank.txt", b" \n\t"),
        ("mute.jpg", jpeg()),
        ("alone.txt", b"a caption without an image"),
        ("alone2.json", b'{"caption": "nor here"}'),
        ("<script>alert(1)</script>.jpg", jpeg("red", "circle")),
        ("<script>alert(1)</script>.txt", "\u202e\U0001f600 <b>\x00 καλημέρα".encode()),
        ("twice.jpg", jpeg("red", "triangle")),
        ("twice.txt", b"a red triangle"),
        ("other.jpg", jpeg("blue", "circle")),
        ("other.txt", b"a blue circle \xff\xfe"),
        ("twice.jpg", jpeg("blue", "triangle")),
        ("twice.txt", b"a blue triangle"),
    ]
    grouped = sorted(bad[:20], key=lambda member: member[0].split(".")[0]) + bad[20:]
    (folder / "bad.tar").write_bytes(tar_bytes([*grouped, *members(rows[200:])]))
    return folder


@pytest.fixture(scope="module")
def run(hostile, trusted_csv, tmp_path_factory):
    run = tmp_path_factory.mktemp("hostile_run") / "deep" / "er" / "run"
    result = nccleaner.fit(hostile, meta=trusted_csv, run=run, config=tiny())
    return run, result, nccleaner.purge(run)


def test_the_table_of_rejects_is_right(run, clipart):
    _, result, purged = run

    assert dict(result.reading.rejects) == REJECTS
    good = len(clipart.rows) - 1  # the last one of the truncated tar
    assert result.reading.pairs == good + 5  # the strange names, `twice`, `other`
    assert result.reading.samples == result.reading.pairs + sum(REJECTS.values())
    assert set(result.reading.problems) == {"empty", "truncated"}
    dropped = dict(purged.summary.dropped)
    assert dropped.pop("mismatched") + purged.summary.kept == result.reading.pairs
    assert dropped == REJECTS
    assert set(purged.summary.shard_problems) == {"empty", "truncated"}


def test_every_sample_is_found_again_under_its_reason(run):
    folder, result, _ = run
    found = Counter()
    for kind in ("manifest", "rejected"):
        for path in (folder / "clean" / kind).glob("*.parquet"):
            table = pq.read_table(path)
            reasons = table["reason"].to_pylist() if kind == "rejected" else ["kept"] * len(table)
            found.update(
                zip([path.stem] * len(table), table["key"].to_pylist(), reasons, strict=True)
            )

    assert sum(found.values()) == result.reading.samples
    assert found["bad", "huge", "image_too_large"] == 1
    assert found["bad", "long", "caption_too_long"] == 1
    assert found["bad", "twice", "duplicate_key"] == 1
    keys = [key for _, key, _ in found]
    assert "<script>alert(1)</script>" in keys
    assert sum("x" in key and ".." in key for key in keys) == 1
    manifests = {path.stem for path in (folder / "clean" / "manifest").iterdir()}
    assert manifests == {"good", "empty", "truncated", "bad"}


def test_names_of_members_lead_nowhere(run):
    folder, _, _ = run
    around = folder.parents[2]

    assert [path.name for path in around.iterdir()] == ["deep"]
    assert not list(around.rglob("x.jpg")) + list(around.rglob("passwd*"))
    assert not list(folder.rglob("*.jpg"))


def test_a_damaged_shard_may_be_an_error(hostile, trusted_csv, tmp_path, run):
    folder, _, _ = run
    shutil.copytree(folder / "features", tmp_path / "run" / "features")
    config = tiny(data={"on_bad_shard": "fail"})

    with pytest.raises(ShardError, match="on-bad-shard use"):
        nccleaner.fit(hostile, meta=trusted_csv, run=tmp_path / "run", config=config)


def test_hits_of_a_search_have_their_captions(run, clipart):
    folder, _, purged = run
    captions = {row.key: row.caption for row in clipart.rows}

    hits = nccleaner.search(folder, "an animal", count=10_000)

    assert len(hits) == purged.summary.kept
    assert all(hit.caption == captions.get(hit.key, hit.caption) for hit in hits)
