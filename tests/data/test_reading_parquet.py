from __future__ import annotations

import io
import random
import tracemalloc
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import LIMITS, Row, jpeg, make_rows, write_parquet_shard

from nccleaner.data.reading import ShardReading
from nccleaner.data.writing import DOWNLOAD_SCHEMA
from nccleaner.records import (
    CAPTION_TOO_LONG,
    DUPLICATE_KEY,
    EMPTY_CAPTION,
    IMAGE_TOO_LARGE,
    MISSING_IMAGE,
    OK,
    TRUNCATED_SHARD,
    Sample,
    Shard,
)


def read(path: Path) -> tuple[list[Sample], ShardReading]:
    shard = Shard(name=path.stem, url=str(path), kind="parquet")
    reading = ShardReading(shard, limits=LIMITS)
    samples = list(reading)
    assert reading.metadata()["key"].to_pylist() == [sample.key for sample in samples]
    return samples, reading


def read_table(tmp_path: Path, table: pa.Table) -> tuple[list[Sample], ShardReading]:
    pq.write_table(table, tmp_path / "x.parquet")
    return read(tmp_path / "x.parquet")


def statuses(samples: Iterable[Sample]) -> list[tuple[str, str]]:
    return [(sample.key, sample.status) for sample in samples]


def test_rows_and_columns_come_back_as_they_were(tmp_path: Path) -> None:
    rows = make_rows(40)
    rows[7] = replace(rows[7], image=None)
    path = write_parquet_shard(tmp_path, "00000", rows, row_group_size=15)

    samples, reading = read(path)

    assert [(s.key, s.image, s.caption) for s in samples] == [
        (row.key, row.image, row.caption) for row in rows
    ]
    assert reading.metadata().schema == DOWNLOAD_SCHEMA
    assert reading.metadata().equals(pq.read_table(path).drop_columns("jpg"))
    assert (samples[7].status, samples[7].detail) == (
        MISSING_IMAGE,
        "failed_to_download: HTTP Error 404: Not Found",
    )
    assert {s.status for s in samples if s is not samples[7]} == {OK}
    assert reading.problem == ""


def test_each_reject_has_its_reason(tmp_path: Path) -> None:
    rows = [
        *[Row("a", "fine", jpeg()), Row("b", None, jpeg()), Row("c", " \n", jpeg())],
        *[Row("d", "x" * 101, jpeg()), Row("e", "large", b"x" * 20_001)],
        *[Row("a", "again", jpeg()), Row("f", "failed", None)],
    ]
    samples, reading = read(write_parquet_shard(tmp_path, "00000", rows))
    reasons = [EMPTY_CAPTION, EMPTY_CAPTION, CAPTION_TOO_LONG, IMAGE_TOO_LARGE]
    assert [s.status for s in samples] == [OK, *reasons, DUPLICATE_KEY, MISSING_IMAGE]
    assert reading.metadata()["caption"].to_pylist() == [row.caption for row in rows]


@pytest.mark.parametrize("kind", [pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), "str")])
def test_columns_of_other_types(tmp_path: Path, kind: pa.DataType) -> None:
    table = pa.table(
        {
            "key": pa.array([7, 8], pa.int64()),
            "text": pa.array(["ein Bär", "熊"]).cast(kind),
            "webp": pa.array([b"image", None], pa.large_binary()),
        }
    )
    samples, reading = read_table(tmp_path, table)
    assert [(s.key, s.caption, s.status) for s in samples] == [
        ("7", "ein Bär", OK),
        ("8", "熊", MISSING_IMAGE),
    ]
    assert reading.metadata().column_names == ["key", "text"]


def test_without_keys_rows_are_numbered(tmp_path: Path) -> None:
    table = pa.table({"png": [b"x", b"y"], "caption": ["a", "b"]})
    samples, reading = read_table(tmp_path, table)
    assert statuses(samples) == [("0", OK), ("1", OK)]
    assert reading.metadata().to_pydict() == {"key": ["0", "1"], "caption": ["a", "b"]}
    samples, _ = read_table(tmp_path, table.select(["png"]))
    assert statuses(samples) == [("0", EMPTY_CAPTION), ("1", EMPTY_CAPTION)]


def test_caption_that_is_not_utf8(tmp_path: Path) -> None:
    raw = pa.array([b"a", b"sch\xf6n"], pa.binary())
    table = pa.table({"jpg": [b"x", b"y"], "caption": raw.view(pa.string())})
    samples, _ = read_table(tmp_path, table)
    assert [(s.caption, s.status) for s in samples] == [("a", OK), ("sch\ufffdn", OK)]


def test_damaged_images_lose_only_their_row_group(tmp_path: Path) -> None:
    rows = make_rows(6)
    path = write_parquet_shard(tmp_path, "00000", rows, row_group_size=2)
    group = pq.ParquetFile(path).metadata.row_group(1)
    chunk = group.column(group.num_columns - 1)
    data = bytearray(path.read_bytes())
    at = chunk.data_page_offset
    data[at : at + 40] = b"\xff" * 40
    path.write_bytes(data)

    samples, reading = read(path)

    assert [s.status for s in samples] == [OK, OK, TRUNCATED_SHARD, TRUNCATED_SHARD, OK, OK]
    assert [s.key for s in samples] == [row.key for row in rows]
    assert reading.problem.startswith("row group 1 is damaged from row 0 on")
    assert reading.metadata()["url"].null_count == 0


def test_row_group_that_is_damaged_elsewhere_is_counted(tmp_path: Path) -> None:
    path = write_parquet_shard(tmp_path, "00000", make_rows(6), row_group_size=2)
    data = bytearray(path.read_bytes())
    at = pq.ParquetFile(path).metadata.row_group(1).column(1).dictionary_page_offset
    data[at : at + 40] = b"\xff" * 40
    path.write_bytes(data)
    samples, reading = read(path)
    assert len(samples) == 4
    assert reading.problem.startswith("row group 1, 2 rows, is lost")


def test_damage_anywhere_is_survived(tmp_path: Path) -> None:
    path = write_parquet_shard(tmp_path, "00000", make_rows(4), row_group_size=2)
    data = path.read_bytes()
    for at in range(4, len(data), 53):
        path.write_bytes(data[:at] + b"\xff\xff\xff" + data[at + 3 :])
        samples, reading = read(path)
        assert len(samples) == len(reading.metadata())
        assert len(samples) == 4 or reading.problem


def test_a_footer_that_contradicts_itself_is_reported(tmp_path: Path) -> None:
    path = write_parquet_shard(tmp_path, "00000", make_rows(6), row_group_size=2)
    data = path.read_bytes()
    forged = 0
    for at in range(len(data) - 8 - pq.read_metadata(path).serialized_size, len(data) - 8):
        changed = data[:at] + bytes([data[at] ^ 12]) + data[at + 1 :]
        try:
            footer = pq.read_metadata(io.BytesIO(changed))
        except (OSError, pa.ArrowException):
            continue
        groups = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
        if [footer.num_rows, *groups] != [6, 2, 2, 2]:
            forged += 1
            path.write_bytes(changed)
            samples, reading = read(path)
            assert reading.problem
            assert len(samples) <= 6
    assert forged >= 4


@pytest.mark.parametrize("columns", [["jpg"], ["jpg", "caption"]])
def test_a_row_group_with_fewer_rows_than_it_says(tmp_path: Path, columns: list[str]) -> None:
    table = pa.table({"jpg": [b"x", b"y", b"z"], "caption": ["a", "b", "c"]}).select(columns)
    path = tmp_path / "x.parquet"
    pq.write_table(table, path)
    data = path.read_bytes()
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 14]) + data[at + 1 :]  # 6 to 8: 3 rows to 4
        try:
            footer = pq.read_metadata(io.BytesIO(changed))
        except (OSError, pa.ArrowException):
            continue
        if footer.num_row_groups == 1 and footer.row_group(0).num_rows == 4:
            path.write_bytes(changed)
            samples, reading = read(path)
            assert len(samples) in (0, 3)
            assert "is not known" in reading.problem
            return
    pytest.fail("no byte of the footer is the number of rows")


@pytest.mark.parametrize("damage", [slice(0, 0), slice(0, 3), slice(0, -9), slice(9, None)])
def test_what_is_no_parquet_has_no_samples(tmp_path: Path, damage: slice) -> None:
    path = write_parquet_shard(tmp_path, "00000", make_rows(2))
    path.write_bytes(path.read_bytes()[damage])
    samples, reading = read(path)
    if damage.start == 0:
        assert samples == []
        assert reading.problem.startswith("the file is cut, damaged or not Parquet")
    assert reading.problem


def test_parquet_without_images(tmp_path: Path) -> None:
    samples, reading = read_table(tmp_path, pa.table({"key": ["a"], "jpg": ["not bytes"]}))
    assert samples == []
    assert reading.problem.startswith("it has no column of image bytes named jpg, jpeg, png, webp")


def test_images_stream(tmp_path: Path) -> None:
    """Reading the first sample of a large row group does not hold all its images."""
    noise = random.Random(0)
    images = pa.array([noise.randbytes(20_000) for _ in range(1000)])
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"jpg": images}), path, write_batch_size=16, use_dictionary=False)
    iterator = iter(ShardReading(Shard("x", str(path), "parquet"), limits=LIMITS))
    tracemalloc.start()  # Arrow reads through Python, whose memory it does not count as its own
    before = pa.total_allocated_bytes()
    assert next(iterator).image == images[0].as_py()
    held = pa.total_allocated_bytes() - before + tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held < 8_000_000
