from __future__ import annotations

import gzip
import io
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from builders import LIMITS, Row, make_rows, row_members, tar_bytes, write_webdataset_shard
from tarreading import JPEG, headers, pair, read, read_tar, statuses

from nccleaner.data.locations import find_shards
from nccleaner.data.reading import ShardReading
from nccleaner.errors import ShardError
from nccleaner.records import MISSING_IMAGE, OK, TRUNCATED_SHARD


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
