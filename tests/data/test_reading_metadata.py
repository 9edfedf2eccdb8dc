from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import LIMITS, jpeg, make_rows, row_members, tar_bytes, write_webdataset_shard

from nccleaner.data.captions import parse_fields
from nccleaner.data.locations import find_shards
from nccleaner.data.reading import ShardReading
from nccleaner.data.writing import DOWNLOAD_SCHEMA
from nccleaner.records import DUPLICATE_KEY, OK, Sample


def read(path: Path) -> tuple[list[Sample], pa.Table, str]:
    [shard] = find_shards(path)
    reading = ShardReading(shard, limits=LIMITS)
    samples = list(reading)
    table = reading.metadata()
    assert table["key"].to_pylist() == [sample.key for sample in samples]
    # Whatever the columns became, Parquet must be able to hold them.
    pq.write_table(table, path.parent / "written-by-test")
    return samples, table, reading.problem


def read_fields(tmp_path: Path, *fields: object) -> pa.Table:
    """The metadata of a tar without sidecar, whose samples have these JSON members."""
    members = [
        member
        for number, document in enumerate(fields)
        for member in [
            (f"{number}.jpg", jpeg()),
            (f"{number}.txt", b"caption"),
            (f"{number}.json", json.dumps(document).encode()),
        ]
    ]
    (tmp_path / "x.tar").write_bytes(tar_bytes(members))
    return read(tmp_path / "x.tar")[1]


def test_sidecar_is_joined_on_key_whatever_the_order(tmp_path: Path) -> None:
    rows = make_rows(6)
    rows[4] = replace(rows[4], image=None)
    write_webdataset_shard(tmp_path, "00000", rows)
    table = pa.Table.from_pylist([row.fields for row in reversed(rows)], DOWNLOAD_SCHEMA)
    types = {"score": pa.array([1.5, None, 2, 3, 4, 5], pa.float16())}
    types["when"] = pa.array(range(6), pa.timestamp("us", "Europe/Vienna"))
    types["tags"] = pa.array([["a"], [], None, ["b", None], ["c"], ["d"]])
    types["box"] = pa.array([{"x": n, "y": None} for n in range(6)])
    types["size"] = pa.array([2**63 + n for n in range(6)], pa.uint64())
    types["kind"] = pa.array(list("aabbcc")).dictionary_encode()
    for name, column in types.items():
        table = table.append_column(name, column)
    pq.write_table(table, tmp_path / "00000.parquet")

    samples, joined, problem = read(tmp_path / "00000.tar")

    stored = pq.read_table(tmp_path / "00000.parquet")
    assert joined.schema == stored.schema
    by_key = {row["key"]: row for row in stored.to_pylist()}
    assert joined.to_pylist() == [by_key[sample.key] for sample in samples]
    assert samples[-1].key == rows[4].key
    assert problem == ""


def test_rows_that_the_sidecar_lacks_are_null(tmp_path: Path) -> None:
    rows = make_rows(3)
    path = write_webdataset_shard(tmp_path, "00000", rows)
    pq.write_table(
        pa.Table.from_pylist([rows[0].fields], DOWNLOAD_SCHEMA), tmp_path / "00000.parquet"
    )
    members = [m for row in (*rows, rows[0]) for m in row_members(row)]
    path.write_bytes(tar_bytes(members))
    (tmp_path / "00000_stats.json").unlink()

    samples, table, problem = read(path)

    assert [s.status for s in samples] == [OK, OK, OK, DUPLICATE_KEY]
    first = rows[0].fields
    assert table["url"].to_pylist() == [first["url"], None, None, first["url"]]
    assert table.schema == DOWNLOAD_SCHEMA
    assert problem == "4 images found where its sidecar counts 1"


def test_sidecar_with_repeated_and_missing_keys(tmp_path: Path) -> None:
    rows = make_rows(2)
    path = write_webdataset_shard(tmp_path, "00000", rows)
    fields = [row.fields for row in (*rows, replace(rows[0], caption="second"))]
    fields.append({**rows[0].fields, "key": None})
    pq.write_table(pa.Table.from_pylist(fields, DOWNLOAD_SCHEMA), tmp_path / "00000.parquet")
    samples, table, problem = read(path)
    assert [s.status for s in samples] == [OK, OK]
    assert table["caption"].to_pylist() == [row.caption for row in rows]
    assert problem.startswith("2 rows of the sidecar have no key or one that came before")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"{}", None])
def test_useless_sidecar_is_reported_and_the_json_used(
    tmp_path: Path, content: bytes | None
) -> None:
    rows = make_rows(2)
    path = write_webdataset_shard(tmp_path, "00000", rows)
    sidecar = tmp_path / "00000.parquet"
    if content is None:
        pq.write_table(pa.table({"url": ["x"]}), sidecar)
    else:
        sidecar.write_bytes(content)
    samples, table, problem = read(path)
    assert [s.status for s in samples] == [OK, OK]
    assert table["url"].to_pylist() == [row.fields["url"] for row in rows]
    assert table["width"].type == pa.int64()
    assert "was not used" in problem
    assert str(sidecar) in problem


def test_every_damaged_byte_of_a_sidecar_is_survived(tmp_path: Path) -> None:
    path = write_webdataset_shard(tmp_path, "00000", make_rows(2))
    sidecar = tmp_path / "00000.parquet"
    data = sidecar.read_bytes()
    for at in range(4, len(data), 97):
        sidecar.write_bytes(data[:at] + b"\xff\xff\xff" + data[at + 3 :])
        samples, table, _ = read(path)
        assert [s.status for s in samples[:2]] == [OK, OK]
        assert len(table) == len(samples)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"count": 3}', '{"successes": "many"}', '{"successes": 1e999}']
)
def test_useless_stats_are_reported(tmp_path: Path, content: str) -> None:
    path = write_webdataset_shard(tmp_path, "00000", make_rows(1))
    (tmp_path / "00000_stats.json").write_text(content)
    _, _, problem = read(path)
    assert problem.endswith("_stats.json is not the statistics of img2dataset and was not used")


def test_tar_without_json_has_key_and_caption(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar_bytes([("a.jpg", jpeg()), ("a.txt", b"b\xc3\xa4r")]))
    _, table, _ = read(tmp_path / "x.tar")
    assert table.to_pydict() == {"key": ["a"], "caption": ["bär"]}
    assert table.schema.types == [pa.string(), pa.string()]


def test_json_fields_keep_their_types(tmp_path: Path) -> None:
    document = {"width": 3, "ratio": 0.5, "nsfw": False, "caption": "own", "tags": ["a", "b"]}
    table = read_fields(tmp_path, document, {"width": None, "url": "http://x"}, {})
    assert table.to_pydict() == {
        "key": ["0", "1", "2"],
        "caption": ["own", "caption", "caption"],
        "width": [3, None, None],
        "ratio": [0.5, None, None],
        "nsfw": [False, None, None],
        "tags": [["a", "b"], None, None],
        "url": [None, "http://x", None],
    }


def test_json_fields_that_fit_no_type_become_json_text(tmp_path: Path) -> None:
    documents = [
        {"mixed": 1, "object": {}, "nested": [[1]], "huge": 2**70, "none": None},
        {"mixed": "1", "object": {"a": 1}, "nested": [1], "huge": 1, "key": 17},
    ]
    table = read_fields(tmp_path, *documents)
    for name in ("mixed", "object", "nested", "huge"):
        values = [json.loads(text) for text in table[name].to_pylist()]
        assert values == [document[name] for document in documents]
    assert "none" not in table.column_names


def test_json_that_invents_fields_without_end_is_bounded(tmp_path: Path) -> None:
    fields = [{f"field-{n}-{m}": m for m in range(100)} for n in range(8)]
    assert read_fields(tmp_path, *fields).num_columns <= 514
    assert "too many different fields" in read(tmp_path / "x.tar")[2]


@pytest.mark.parametrize("levels", [101, 500, *range(960, 1000), 100_000])
def test_json_nested_without_end_is_no_json(levels: int) -> None:
    """Python reads some depths that it cannot write again; which ones, its stack decides."""
    for opening, closing in ((b'{"a":', b"}"), (b"[", b"]")):
        document = b'{"a":' + opening * (levels - 1) + b"1" + closing * (levels - 1) + b"}"
        fields, note = parse_fields(document)
        assert fields == {}
        assert note.startswith("json cannot be read: ")


def test_json_nested_as_deep_as_is_read_can_be_written(tmp_path: Path) -> None:
    document: dict[str, object] = {"a": 1}
    for _ in range(99):
        document = {"a": document}
    table = read_fields(tmp_path, document)
    assert json.loads(table["a"][0].as_py()) == document["a"]


def test_numbers_out_of_range(tmp_path: Path) -> None:
    documents = [
        b'{"a": 1e999, "b": 1e999, "c": %s, "d": 0.5, "successes": 3}' % (b"9" * 4300),
        b'{"a": -1e999, "b": NaN, "c": 1, "d": %s}' % (b"9" * 400),
        b'{"a": 0, "c": %s}' % (b"9" * 4301),  # more digits than Python reads
    ]
    members = [
        member
        for number, document in enumerate(documents)
        for member in [
            (f"{number}.jpg", jpeg()),
            (f"{number}.txt", b"caption"),
            (f"{number}.json", document),
        ]
    ]
    (tmp_path / "x.tar").write_bytes(tar_bytes(members))
    samples, table, problem = read(tmp_path / "x.tar")
    assert [sample.status for sample in samples] == [OK] * 3
    assert "json cannot be read" in samples[2].detail
    assert table["a"].to_pylist() == [math.inf, -math.inf, None]
    assert table["b"].type == pa.float64()
    assert [len(text) for text in table["c"].to_pylist()[:2]] == [4300, 1]
    assert table["d"].to_pylist() == ["0.5", "9" * 400, None]
    assert problem == ""


def test_a_field_whose_type_changes_from_sample_to_sample(tmp_path: Path) -> None:
    values = [1, "1", 1.5, True, None, [1], [1, "a"], {"b": 1}, [], 2**80, "\ud800"]
    table = read_fields(tmp_path, *({"a": value} for value in values))
    texts = table["a"].to_pylist()
    assert [text if text is None else json.loads(text) for text in texts] == values


def test_a_name_that_is_no_unicode_is_written_out(tmp_path: Path) -> None:
    table = read_fields(tmp_path, {"\ud800": 1, "nul\0": 2, "": 3}, {"\ud800": "x"})
    assert table.column_names == ["key", "caption", "\\ud800", "nul\0", ""]


def test_half_a_surrogate_pair_costs_one_character_not_the_column(tmp_path: Path) -> None:
    table = read_fields(tmp_path, {"note": "plain"}, {"note": "b\ud83d!"}, {"note": ["c\ud83d"]})
    assert [json.loads(text) for text in table["note"].to_pylist()] == [
        "plain",
        "b\ud83d!",
        ["c\ud83d"],
    ]
    table = read_fields(tmp_path, {"note": "plain"}, {"note": "b\ud83d!"})
    assert table["note"].to_pylist() == ["plain", "b?!"]
