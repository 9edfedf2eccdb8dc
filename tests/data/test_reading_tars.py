from __future__ import annotations

import gzip
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from builders import LIMITS, Row, make_rows, row_members, tar_bytes, write_webdataset_shard
from tarreading import JPEG, headers, pair, read, read_tar, statuses
from webdataset import tariterators  # type: ignore[import-untyped]

from nccleaner.data.locations import find_shards
from nccleaner.data.reading import ShardReading
from nccleaner.records import (
    CAPTION_TOO_LONG,
    DUPLICATE_KEY,
    EMPTY_CAPTION,
    IMAGE_TOO_LARGE,
    MISSING_IMAGE,
    OK,
    UNREADABLE_METADATA,
)

# Good shards


def test_good_shard_gives_what_webdataset_gives(tmp_path: Path) -> None:
    members = [m for row in make_rows(12) for m in row_members(row)]
    members += [("deep/Er.name/x.y.JPG", JPEG), ("deep/Er.name/x.Txt", "späßchen\n".encode())]
    members += [("__meta__", b"archive note"), ("deep/Er.name/z.jpeg", JPEG)]
    members += [("deep/Er.name/z.seg.png", b"not an image of its own"), ("./z.PNG", JPEG)]
    path = tmp_path / "plain.tar"
    path.write_bytes(tar_bytes(members))

    with path.open("rb") as file:
        opened = [{"url": str(path), "stream": file}]
        oracle = list(tariterators.group_by_keys(tariterators.tar_file_expander(opened)))
    samples, _ = read(path)

    assert [s.key for s in samples] == [o["__key__"] for o in oracle]
    for sample, expected in zip(samples, oracle, strict=True):
        images = [expected[suffix] for suffix in ("jpg", "jpeg", "png") if suffix in expected]
        assert sample.image == (images[0] if images else None)
        assert (sample.caption or "").encode() == expected.get("txt", b"")
    assert [s.status for s in samples[:12]] == [OK] * 12


def test_img2dataset_shard(tmp_path: Path) -> None:
    rows = make_rows(5)
    path = write_webdataset_shard(tmp_path, "00000", rows)

    samples, reading = read(path)

    assert [(s.key, s.image, s.caption, s.status) for s in samples] == [
        (row.key, row.image, row.caption, OK) for row in rows
    ]
    assert all(sample.shard == "00000" and not sample.metadata for sample in samples)
    assert reading.problem == ""


@pytest.mark.parametrize(
    "caption",
    [
        "一只红色的方块",
        "مربع أحمر",
        "लाल वर्ग",
        "🟥🇪🇺 café cafe\u0301",
        "  padded \r\n and \u2028 split\x00 ",
        "ไทย",
        "\ufeffwith a byte order mark",
    ],
)
def test_captions_of_any_script_pass_unchanged(tmp_path: Path, caption: str) -> None:
    fields = json.dumps({"caption": caption}).encode()
    members = [*pair("a", caption), ("b.webp", JPEG), ("b.json", fields)]
    samples, reading = read_tar(tmp_path, members)
    assert [(s.caption, s.status, s.detail) for s in samples] == [(caption, OK, "")] * 2
    assert reading.metadata()["caption"].to_pylist() == [caption] * 2


def test_caption_is_found_in_txt_then_json_then_sidecar(tmp_path: Path) -> None:
    rows = [replace(row, caption="of the sidecar") for row in make_rows(4)]
    write_webdataset_shard(tmp_path, "00000", rows)
    keys = [row.key for row in rows]
    members = [
        *[(f"{keys[0]}.json", b'{"caption": "of the json"}'), *pair(keys[0], "of the txt")],
        *[(f"{keys[1]}.json", b'{"text": "text", "caption": "of it"}'), (f"{keys[1]}.jpg", JPEG)],
        *[(f"{keys[2]}.json", b'{"text": "text", "caption": 3}'), (f"{keys[2]}.jpg", JPEG)],
        (f"{keys[3]}.jpg", JPEG),
    ]
    path = tmp_path / "00000.tar"
    path.write_bytes(tar_bytes(members))
    samples, _ = read(path)
    assert [s.caption for s in samples] == ["of the txt", "of it", "text", "of the sidecar"]


def test_gzipped_tar_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    data = tar_bytes(pair("a") + pair("b"))
    for name in ("x.tar.gz", "y.tgz", "z.tar"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(data))
        samples, reading = read(path)
        assert statuses(samples) == [("a", OK), ("b", OK)]
        assert (samples[0].shard, reading.problem) == (name[0], "")


def test_memory_holds_one_sample_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "plain.tar"
    path.write_bytes(tar_bytes(m for n in range(50) for m in pair(f"{n:03d}")))
    [shard] = find_shards(path)
    iterator = iter(ShardReading(shard, limits=LIMITS))
    next(iterator)
    path.write_bytes(path.read_bytes()[:100])  # what is not read yet is gone, or buffered
    assert sum(1 for _ in iterator) <= 49


# Rejects


def test_each_reject_has_its_reason(tmp_path: Path) -> None:
    members = [
        *pair("good"),
        *[("no_image.txt", b"caption"), ("no_image.gif", JPEG)],
        *[("no_caption.jpg", JPEG), ("no_caption.json", b'{"caption": null}')],
        *pair("blank", " \t\n\u3000"),
        *pair("long", "x" * 101),
        *pair("huge_text", "x" * 20_001),
        *[("huge_image.jpg", b"x" * 20_001), ("huge_image.txt", b"caption")],
        *[("bad_json.jpg", JPEG), ("bad_json.json", b'{"caption": "x')],
        *[("list_json.jpg", JPEG), ("list_json.json", b'["caption"]')],
        *[("deep_json.jpg", JPEG), ("deep_json.json", b"[" * 19_000)],
    ]
    samples, reading = read_tar(tmp_path, members)
    assert statuses(samples) == [
        ("good", OK),
        ("no_image", MISSING_IMAGE),
        ("no_caption", EMPTY_CAPTION),
        ("blank", EMPTY_CAPTION),
        ("long", CAPTION_TOO_LONG),
        ("huge_text", CAPTION_TOO_LONG),
        ("huge_image", IMAGE_TOO_LARGE),
        ("bad_json", UNREADABLE_METADATA),
        ("list_json", UNREADABLE_METADATA),
        ("deep_json", UNREADABLE_METADATA),
    ]
    assert all(bool(s.detail) == (s.status != OK) for s in samples)
    assert "gif, txt" in samples[1].detail
    assert reading.problem == ""


def test_caption_at_the_limit_is_kept(tmp_path: Path) -> None:
    samples, _ = read_tar(tmp_path, pair("a", "語" * 100))
    assert samples[0].status == OK


def test_broken_json_beside_a_caption_is_a_pair_that_says_so(tmp_path: Path) -> None:
    samples, reading = read_tar(tmp_path, [*pair("a"), ("a.json", b"{")])
    assert statuses(samples) == [("a", OK)]
    assert "json cannot be read" in samples[0].detail
    assert reading.metadata().to_pylist() == [{"key": "a", "caption": "a red square"}]


def test_caption_that_is_not_utf8_is_a_pair_that_says_so(tmp_path: Path) -> None:
    members = [("a.jpg", JPEG), ("a.txt", "schön".encode("latin-1"))]
    members += [("b.jpg", JPEG), ("b.json", b'{"caption": "half a pair \\ud83d"}')]
    samples, reading = read_tar(tmp_path, members)
    assert statuses(samples) == [("a", OK), ("b", OK)]
    assert (samples[0].caption, samples[0].detail) == (
        "sch\ufffdn",
        "caption is not UTF-8 at byte 3",
    )
    assert samples[1].caption == "half a pair ?"
    # No UTF-8 has half a pair; the other captions of the column stay as they are.
    assert reading.metadata()["caption"].to_pylist() == ["sch\ufffdn", "half a pair ?"]


def test_second_group_of_a_key_is_a_duplicate(tmp_path: Path) -> None:
    members = [
        *[*pair("a", "first"), ("a.json", b'{"n": 1}')],
        *[*pair("a", "adjacent"), ("a.json", b'{"n": 2}')],
        *[*pair("b"), *pair("a", "later")],
    ]
    samples, reading = read_tar(tmp_path, members)
    expected = [("a", OK), ("a", DUPLICATE_KEY), ("b", OK), ("a", DUPLICATE_KEY)]
    assert statuses(samples) == expected
    assert [s.caption for s in samples] == ["first", "adjacent", "a red square", "later"]
    assert reading.metadata()["n"].to_pylist() == [1, 2, None, None]


def test_failed_downloads_are_missing_images_with_their_error(tmp_path: Path) -> None:
    rows = make_rows(3)
    rows[1] = replace(rows[1], image=None)
    rows.append(Row("000000003", None, None, error="timed out"))
    samples, reading = read(write_webdataset_shard(tmp_path, "00000", rows))
    assert [(s.key[-1], s.status, s.detail) for s in samples] == [
        ("0", OK, ""),
        ("2", OK, ""),
        ("1", MISSING_IMAGE, "failed_to_download: HTTP Error 404: Not Found"),
        ("3", MISSING_IMAGE, "failed_to_download: timed out"),
    ]
    assert samples[2].caption == rows[1].caption
    assert reading.problem == ""


def test_success_without_an_image_in_a_whole_tar(tmp_path: Path) -> None:
    rows = make_rows(3)
    path = write_webdataset_shard(tmp_path, "00000", rows)
    path.write_bytes(tar_bytes(m for row in rows[:2] for m in row_members(row)))
    samples, reading = read(path)
    assert statuses(samples)[2] == (rows[2].key, MISSING_IMAGE)
    assert "says success" in samples[2].detail
    assert reading.problem == "2 images found where its _stats.json counts 3"


# Names that nobody should trust


def test_names_are_only_text_and_links_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("root:x")
    link = tarfile.TarInfo("link.txt")
    link.type, link.linkname = tarfile.SYMTYPE, str(secret)
    hard = tarfile.TarInfo("link.jpg")
    hard.type, hard.linkname = tarfile.LNKTYPE, "/etc/passwd"
    device = tarfile.TarInfo("device.jpg")
    device.type = tarfile.CHRTYPE
    folder = tarfile.TarInfo("folder.jpg")
    folder.type = tarfile.DIRTYPE
    members: list[tuple[str | tarfile.TarInfo, bytes]] = [(link, b""), (hard, b"")]
    members += [(device, b""), (folder, b""), (".hidden.jpg", JPEG), ("README", b"no suffix")]
    members += [*pair("../../x"), *pair("/etc/passwd"), *pair("<b>x</b>")]
    samples, reading = read_tar(tmp_path, members)
    assert statuses(samples) == [("../../x", OK), ("/etc/passwd", OK), ("<b>x</b>", OK)]
    assert reading.problem.startswith("5 members are links, devices or have no name")
    assert "`link.txt`" in reading.problem
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plain.tar", "secret.txt"]


def test_names_that_are_not_utf8_stay_apart(tmp_path: Path) -> None:
    """Were both `ab\ufffdd`, the image of one would get the caption of the other."""
    data = tar_bytes([*pair("abcd"), ("abcd.jpg", JPEG), ("abcd.txt", b"of another")])
    raw = bytearray(data)
    names = [b"ab\xffd", b"ab\xffd", b"ab\xfed", b"ab\xfdd"]
    for at, name in zip([header.offset for header in headers(data)], names, strict=True):
        raw[at : at + 4] = name
        raw[at + 148 : at + 156] = b" " * 8
        raw[at + 148 : at + 156] = b"%06o\0 " % sum(raw[at : at + 512])
    path = tmp_path / "plain.tar"
    path.write_bytes(raw)
    samples, _ = read(path)
    assert statuses(samples) == [
        ("ab\\xffd", OK),
        ("ab\\xfed", EMPTY_CAPTION),
        ("ab\\xfdd", MISSING_IMAGE),
    ]
