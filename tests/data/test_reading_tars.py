from __future__ import annotations

import gzip
import io
import json
import tarfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from builders import LIMITS, Row, jpeg, make_rows, row_members, tar_bytes, write_webdataset_shard
from webdataset import tariterators  # type: ignore[import-untyped]

from nccleaner.data.locations import find_shards
from nccleaner.data.reading import ShardReading
from nccleaner.errors import ShardError
from nccleaner.records import (
    CAPTION_TOO_LONG,
    DUPLICATE_KEY,
    EMPTY_CAPTION,
    IMAGE_TOO_LARGE,
    MISSING_IMAGE,
    OK,
    TRUNCATED_SHARD,
    UNREADABLE_METADATA,
    Sample,
)

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


# Damaged tars


def test_every_cut_is_found_and_no_sample_vanishes(tmp_path: Path) -> None:
    """Cuts a shard at every 256th byte; only the padding behind the end may go unnoticed."""
    rows = [replace(row, image=JPEG) for row in make_rows(4)]
    path = write_webdataset_shard(tmp_path, "00000", rows)
    data = path.read_bytes()
    members = headers(data)
    ends = [member.offset_data + member.size for member in members]
    end_of_archive = members[-1].offset_data + (members[-1].size + 511) // 512 * 512
    starts = [member.offset for member in members]
    # Before the end of the first sample nothing tells what is usual: nothing is believed then.
    known = starts[3] + 512
    cuts = {0, 256, 512, 1000, *range(ends[2], len(data), 256), *ends[2:], *starts[3:]}
    for cut in sorted(cuts):
        path.write_bytes(data[:cut])
        samples, reading = read(path)
        whole = sum(end <= cut for end in ends[2::3]) if cut >= known else 0
        assert [s.status for s in samples] == [OK] * whole + [TRUNCATED_SHARD] * (4 - whole), cut
        assert {s.key for s in samples} == {row.key for row in rows}
        assert bool(reading.problem) == (cut < end_of_archive + 512), cut
        assert ("counts 4" in reading.problem) == (whole < 4)


def test_cut_between_members_without_sidecar(tmp_path: Path) -> None:
    members = [m for row in make_rows(4) for m in row_members(row)]
    path = tmp_path / "plain.tar"
    expected = {12: OK, 11: TRUNCATED_SHARD, 10: TRUNCATED_SHARD}
    for count, status in expected.items():
        data = tar_bytes(members[:count])
        path.write_bytes(data[: len(data.rstrip(b"\0")) // 512 * 512 + 512])
        samples, reading = read(path)
        assert [s.status for s in samples] == [OK, OK, OK, status]
        assert "between two members" in reading.problem
        assert "how many samples are lost is not known" in reading.problem
        assert (samples[3].image is None) == (status != OK)


def test_only_sample_of_a_cut_tar(tmp_path: Path) -> None:
    path = tmp_path / "plain.tar"
    for members in (pair("a")[:1], pair("a")):
        path.write_bytes(tar_bytes(members)[: 1024 + 1024 * len(members)].rstrip(b"\0"))
        path.write_bytes(tar_bytes(members)[: -(-path.stat().st_size // 512) * 512])
        samples, reading = read(path)
        assert statuses(samples) == [("a", TRUNCATED_SHARD)]
        assert "between two members" in reading.problem


def test_sidecar_counts_the_loss_where_there_are_no_stats(tmp_path: Path) -> None:
    rows = [*make_rows(4), Row("000000004", "failed", None)]
    path = write_webdataset_shard(tmp_path, "00000", rows)
    (tmp_path / "00000_stats.json").unlink()
    path.write_bytes(path.read_bytes()[:7000])
    samples, reading = read(path)
    assert [s.status for s in samples].count(TRUNCATED_SHARD) == 2
    assert samples[-1].status == MISSING_IMAGE
    assert "2 images found where its sidecar counts 4" in reading.problem


def test_damaged_header_loses_what_follows(tmp_path: Path) -> None:
    rows = make_rows(4)
    path = write_webdataset_shard(tmp_path, "00000", rows)
    data = bytearray(path.read_bytes())
    header = headers(data)[6].offset
    data[header + 124 : header + 136] = b"garbage size"
    path.write_bytes(data)
    samples, reading = read(path)
    assert [s.status for s in samples] == [OK, OK, TRUNCATED_SHARD, TRUNCATED_SHARD]
    assert "in a header" in reading.problem


def test_damage_anywhere_is_survived_and_no_sample_vanishes(tmp_path: Path) -> None:
    rows = make_rows(4)
    path = write_webdataset_shard(tmp_path, "00000", rows)
    data = path.read_bytes()
    for at in range(0, len(data), 61):
        path.write_bytes(data[:at] + b"\xff\x00a" + data[at + 3 :])
        samples, _ = read(path)
        assert {s.key for s in samples} >= {row.key for row in rows}


def test_last_sample_needs_all_that_any_before_it_had(tmp_path: Path) -> None:
    document = ("b.json", b'{"caption": "of its json"}')
    members = [*pair("a"), document, *pair("b"), *pair("c")]
    path = tmp_path / "plain.tar"
    for order, status in [(members, TRUNCATED_SHARD), ([*members, ("c.json", b"{}")], OK)]:
        data = tar_bytes(order)
        path.write_bytes(data[: -(-len(data.rstrip(b"\0")) // 512) * 512])
        samples, _ = read(path)
        assert samples[-1].status == status


def test_forged_headers_end_the_reading(tmp_path: Path) -> None:
    path = tmp_path / "plain.tar"
    good = tar_bytes([*pair("z"), *pair("a")])
    good = good[: -(-len(good.rstrip(b"\0")) // 512) * 512]
    for pax in (b"999999999999 path=x\n", b"\xff\xff", b"12 size=-99\n", b"30 GNU.sparse.size=x\n"):
        extended = tarfile.TarInfo("pax")
        extended.type = tarfile.XHDTYPE
        path.write_bytes(good + tar_bytes([(extended, pax), *pair("b")]))
        samples, _ = read(path)
        assert statuses(samples)[:2] == [("z", OK), ("a", OK)]
    vast = tarfile.TarInfo("pax")
    vast.type, vast.size = tarfile.XHDTYPE, 8 << 30
    path.write_bytes(good + vast.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
    samples, reading = read(path)
    assert statuses(samples) == [("z", OK), ("a", OK)]
    assert "a header of 8589934592 bytes" in reading.problem


def test_header_after_header_without_a_member(tmp_path: Path) -> None:
    extended = tarfile.TarInfo("pax")
    extended.type = tarfile.XHDTYPE
    chain = [(extended, b"9 a=bcde\n")] * 1000  # tarfile calls itself for each
    samples, reading = read_tar(tmp_path, [*pair("z"), *pair("a"), *chain, *pair("b")])
    assert statuses(samples) == [("z", OK), ("a", OK)]
    assert "recursion" in reading.problem


@pytest.mark.parametrize("unit", [b"1", b"5 aa\n"])
def test_header_that_takes_for_ever_to_parse(tmp_path: Path, unit: bytes) -> None:
    """Before 3.11.10 Python spends the square of its size on either (CVE-2024-6232)."""
    for count in (1 << 14, 1 << 22):
        extended = tarfile.TarInfo("pax")
        extended.type = tarfile.XHDTYPE
        content = (unit * count)[:count]
        start = time.monotonic()
        samples, reading = read_tar(tmp_path, [*pair("z"), *pair("a"), (extended, content)])
        assert time.monotonic() - start < 20
        assert [sample.key for sample in samples] == ["z", "a"]
    assert reading.problem


def test_long_names_and_times_are_no_forgery(tmp_path: Path) -> None:
    """An honest extended header: the longest path of Linux, and an access list."""
    key = "/".join(["folder" * 40] * 17)
    members: list[tuple[str | tarfile.TarInfo, bytes]] = []
    for name, content in pair(key):
        header = tarfile.TarInfo(name)
        header.pax_headers = {"SCHILY.xattr.system.posix_acl_access": "x" * 4000}
        header.mtime = 1.5
        members.append((header, content))
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for header, content in members:
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    (tmp_path / "plain.tar").write_bytes(data.getvalue())
    samples, reading = read(tmp_path / "plain.tar")
    assert (statuses(samples), reading.problem) == ([(key, OK)], "")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "the file is empty; how many samples are lost is not known"),
        (b"<html>404</html>", "the file is not a tar"),
        (b"<html>" * 1000, "the file is not a tar"),
        (JPEG, "the file is not a tar"),
        (b"\x1f\x8b" + b"\0" * 100, "the file is not a tar (gzip: "),
        (b"\0" * 10_240, "it holds no samples"),
    ],
)
def test_what_is_no_tar_has_no_samples(tmp_path: Path, data: bytes, problem: str) -> None:
    path = tmp_path / "00000.tar"
    path.write_bytes(data)
    samples, reading = read(path)
    assert samples == []
    assert reading.problem.startswith(problem)
    assert reading.metadata().num_rows == 0


def test_empty_tar_beside_its_sidecar(tmp_path: Path) -> None:
    path = write_webdataset_shard(tmp_path, "00000", [*make_rows(2), Row("x", None, None)])
    path.write_bytes(b"")
    samples, reading = read(path)
    assert [s.status for s in samples] == [TRUNCATED_SHARD, TRUNCATED_SHARD, MISSING_IMAGE]
    assert reading.problem == "the file is empty; 0 images found where its _stats.json counts 2"


def test_cut_gzip(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    # Numbers that no compressor can shorten, so that the cut is in the middle of the samples too.
    noise = [str(hash((n, "x"))) * 30 for n in range(400)]
    data = gzip.compress(tar_bytes(m for n, text in enumerate(noise) for m in pair(str(n), text)))
    path.write_bytes(data[: len(data) // 2])
    samples, reading = read(path)
    assert 0 < len(samples) < 400
    assert "gzip: " in reading.problem
    assert "is not known" in reading.problem
    path.write_bytes(data[:-5])  # the check sum behind the last sample
    samples, reading = read(path)
    assert len(samples) == 400
    assert "gzip: " in reading.problem


def test_joined_tars_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "plain.tar"
    path.write_bytes(tar_bytes(pair("a")) + tar_bytes(pair("b")))
    samples, reading = read(path)
    assert statuses(samples) == [("a", OK)]
    assert "joined into one" in reading.problem


def test_tar_that_vanished_is_an_error(tmp_path: Path) -> None:
    path = write_webdataset_shard(tmp_path, "00000", make_rows(1))
    [shard] = find_shards(path)
    path.unlink()
    with pytest.raises(ShardError, match=r"00000\.tar cannot be read: FileNotFoundError"):
        list(ShardReading(shard, limits=LIMITS))
