from decimal import Decimal
from pathlib import Path

import pyarrow as pa
from purged import SCORES, purge

from nccleaner.output.exports.fields import Fields

OURS = {name: name for name in (*SCORES, "uid", "row")}


def fields_of(clean: Path, tables: dict[str, pa.Table]) -> tuple[Fields, dict[str, list[dict]]]:
    for shard, table in tables.items():
        keys = [f"{shard}{row}" for row in range(len(table))]
        purge(clean, table, keys=keys, keep=[True] * len(keys), shard=shard)
    paths = [clean / "manifest" / f"{shard}.parquet" for shard in tables]
    fields = Fields(paths)
    return fields, {path.stem: [row for _, row in fields.rows(path)] for path in paths}


def test_every_row_has_the_fields_of_all_shards(tmp_path: Path) -> None:
    fields, rows = fields_of(
        tmp_path,
        {
            "a": pa.table({"url": ["u"], "n": [1]}),
            "b": pa.table({"n": [0.5], "tag": [["x", None]]}),
        },
    )
    names = fields.schema.names
    assert all(list(row) == names for shard in rows.values() for row in shard)
    assert set(names) == {"url", "n", "tag", *OURS}
    assert (rows["a"][0]["url"], rows["a"][0]["n"], rows["a"][0]["tag"]) == ("u", 1.0, None)
    assert (rows["b"][0]["url"], rows["b"][0]["n"], rows["b"][0]["tag"]) == (None, 0.5, ["x", None])
    assert isinstance(rows["a"][0]["n"], float)


def test_our_columns_have_one_name_whatever_the_shards_call_theirs(tmp_path: Path) -> None:
    fields, rows = fields_of(
        tmp_path,
        {
            "a": pa.table({"status": ["success"]}),
            "b": pa.table({"n": [1]}),
            "c": pa.table({"nccleaner_status": ["mine"], "key": ["not the key"]}),
        },
    )
    ours = "nccleaner_nccleaner_status"
    assert [rows[shard][0][ours] for shard in "abc"] == ["ok"] * 3
    assert [rows[shard][0]["status"] for shard in "abc"] == ["success", None, None]
    assert [rows[shard][0]["nccleaner_status"] for shard in "abc"] == [None, None, "mine"]
    assert [rows[shard][0]["nccleaner_key"] for shard in "abc"] == ["a0", "b0", "c0"]
    assert rows["c"][0]["key"] == "not the key"
    assert [key for key, _ in fields.rows(tmp_path / "manifest" / "c.parquet")] == ["c0"]


def test_what_json_has_no_word_for_becomes_text_or_null(tmp_path: Path) -> None:
    _, rows = fields_of(
        tmp_path,
        {
            "a": pa.table(
                {
                    "when": pa.array([0], pa.timestamp("s", "UTC")),
                    "price": [Decimal("1.50")],
                    "raw": [b"\xffa"],
                    "box": [[[0.5, float("inf")]]],
                    "half": pa.array([0.5], pa.float16()),
                    "word": pa.array(["x"]).dictionary_encode(),
                    "nested": [{"a": float("nan"), "b": [1]}],
                    "mixed": [[1, 2]],
                }
            ),
            "b": pa.table({"mixed": ["text"]}),
        },
    )
    row = rows["a"][0]
    assert "1970-01-01" in row["when"]
    assert "1.50" in row["price"]
    assert row["raw"] == "\ufffda"
    assert row["box"] == [[0.5, None]]
    assert row["half"] == 0.5
    assert row["word"] == "x"
    assert row["nested"] == {"a": None, "b": [1]}
    assert (row["mixed"], rows["b"][0]["mixed"]) == ("[1, 2]", "text")
