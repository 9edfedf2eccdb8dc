import datetime
from itertools import compress
from operator import not_
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from purged import SCORES, purge, scores_of, strings

from nccleaner.errors import RunError
from nccleaner.identity import derive_uid
from nccleaner.output import manifests
from nccleaner.output.manifests import read_manifests, read_outcomes, write_manifest
from nccleaner.records import EMPTY_CAPTION, MISMATCHED, OK, UNDECODABLE_IMAGE


def test_own_columns_keep_names_types_and_values(tmp_path: Path) -> None:
    metadata = pa.table(
        {
            "url": pa.array(["a", None, "c"], pa.large_string()),
            "width": pa.array([1, None, 3], pa.int32()),
            "exif": pa.array([{"Make": "x", "n": [1]}, None, {"Make": None, "n": []}]),
            "time": pa.array(
                [datetime.datetime(2024, 1, 1), None, None], pa.timestamp("us", "UTC")
            ),
            "local": pa.array([0, 1, None], pa.timestamp("ns")),
            "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
            "half": pa.array(np.array([1, 2, 3], np.float16)),
            "nothing": pa.nulls(3),
            "bytes": pa.array([b"\0", b"", None]),
        }
    )
    metadata = metadata.replace_schema_metadata({"pandas": "describes another table"})
    _, kept, rejected = purge(
        tmp_path, metadata, keys=["0", "1", "2"], keep=[True, False, True], first_row=7
    )
    own = metadata.column_names
    assert kept.column_names == [*own, "uid", *SCORES, "row"]
    assert rejected.schema.names == [*kept.schema.names, "reason"]
    assert rejected.drop_columns("reason").schema.equals(kept.schema)
    assert kept.select(own).equals(metadata.take([0, 2]))
    assert rejected.select(own).equals(metadata.take([1]))
    assert kept["row"].type == pa.int64()
    assert kept["row"].to_pylist() == [7, 8]
    assert rejected["row"].to_pylist() == [None]
    assert kept["similarity"].type == pa.float32()
    assert b"pandas" not in kept.schema.metadata


def test_own_columns_win_their_names(tmp_path: Path) -> None:
    metadata = pa.table(
        {
            "status": ["success", "success"],
            "nccleaner_status": ["from an earlier purge"] * 2,
            "similarity": [0.3, 0.4],
            "row": [10, 11],
            "reason": ["because", "thus"],
        }
    )
    report, kept, rejected = purge(tmp_path, metadata, keys=["0", "1"], keep=[True, False])
    expected = {
        "status": "nccleaner_nccleaner_status",
        "similarity": "nccleaner_similarity",
        "row": "nccleaner_row",
        "reason": "nccleaner_reason",
    }
    assert report.renamed == expected
    assert kept.select(metadata.column_names).equals(metadata.slice(0, 1))
    assert kept["nccleaner_nccleaner_status"].to_pylist() == [OK]
    assert kept["nccleaner_row"].to_pylist() == [0]
    assert rejected["nccleaner_reason"].to_pylist() == [MISMATCHED]
    (batch,) = read_manifests(tmp_path, ["status", "key", "row"])
    assert batch.to_pylist() == [{"status": OK, "key": "0", "row": 0}]


@pytest.mark.parametrize(
    "key_type", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
def test_a_key_that_agrees_is_written_once(tmp_path: Path, key_type: pa.DataType) -> None:
    metadata = pa.table({"key": pa.array(["0", None, "2"]).cast(key_type), "url": ["a", "b", "c"]})
    report, kept, rejected = purge(
        tmp_path, metadata, keys=["0", "1", "2"], keep=[True, True, False]
    )
    assert report.renamed == {}
    assert kept.column_names == ["key", "url", "uid", "shard", *SCORES[2:], "row"]
    assert kept["key"].type == key_type
    assert kept["key"].to_pylist() == ["0", "1"]
    assert rejected["key"].to_pylist() == ["2"]


@pytest.mark.parametrize("own", [["7", "8"], [0, 1], [["0"], ["1"]], [None, "8"]])
def test_a_key_that_disagrees_stays_beside_ours(tmp_path: Path, own: list[object]) -> None:
    metadata = pa.table({"key": own})
    report, kept, _ = purge(tmp_path, metadata, keys=["00", "01"], keep=[True, True])
    assert report.renamed == {"key": "nccleaner_key"}
    assert kept["key"].to_pylist() == own
    assert kept["nccleaner_key"].to_pylist() == ["00", "01"]


def test_uids_are_derived_where_there_are_none(tmp_path: Path) -> None:
    keys, keep = ["0", "1"], [True, False]
    report, kept, rejected = purge(tmp_path, pa.table({"url": ["a", "b"]}), keys=keys, keep=keep)
    assert kept["uid"].to_pylist() == [derive_uid("00000", "0")]
    assert rejected["uid"].to_pylist() == [derive_uid("00000", "1")]
    assert report.derived_uids == 2


def test_own_uids_are_used_and_broken_ones_replaced_beside_them(tmp_path: Path) -> None:
    good, keys, keep = "ab" * 16, ["0", "1"], [True, True]
    metadata = pa.table({"uid": [good, None]})
    report, kept, _ = purge(tmp_path / "a", metadata, keys=keys, keep=keep, uids=[good, None])
    assert kept["uid"].to_pylist() == [good, derive_uid("00000", "1")]
    assert (report.derived_uids, report.renamed) == (1, {})

    metadata = pa.table({"uid": [good, "17"]})
    report, kept, _ = purge(tmp_path / "b", metadata, keys=keys, keep=keep, uids=[good, "17"])
    assert kept["uid"].to_pylist() == [good, "17"]
    assert kept["nccleaner_uid"].to_pylist() == [good, derive_uid("00000", "1")]
    assert (report.derived_uids, report.renamed) == (1, {"uid": "nccleaner_uid"})


@pytest.mark.parametrize("keys", [[], ["0"]])
def test_a_shard_that_keeps_nothing_has_an_empty_manifest(tmp_path: Path, keys: list[str]) -> None:
    metadata = pa.table({"width": pa.array([1] * len(keys), pa.int32())})
    report, kept, rejected = purge(tmp_path, metadata, keys=keys, keep=[False] * len(keys))
    assert (report.kept, kept.num_rows, rejected.num_rows) == (0, 0, len(keys))
    assert kept.schema.field("width").type == pa.int32()
    assert kept.schema.field("row").type == pa.int64()
    assert rejected.schema.field("reason").type == pa.string()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([OK, OK, EMPTY_CAPTION, UNDECODABLE_IMAGE]), st.booleans()),
        max_size=30,
    ),
    st.integers(0, 2**40),
)
def test_every_sample_is_in_exactly_one_of_the_two(
    tmp_path_factory: pytest.TempPathFactory, samples: list[tuple[str, bool]], first_row: int
) -> None:
    status = [s for s, _ in samples]
    keep = [s == OK and wanted for s, wanted in samples]
    keys = [f"{i:04d}" for i in range(len(samples))]
    report, kept, rejected = purge(
        tmp_path_factory.mktemp("clean"),
        pa.table({"place": pa.array(range(len(keys)), pa.int16())}),
        keys=keys,
        keep=keep,
        status=status,
        first_row=first_row,
    )
    assert kept["key"].to_pylist() == list(compress(keys, keep))
    assert rejected["key"].to_pylist() == list(compress(keys, map(not_, keep)))
    assert kept["row"].to_pylist() == list(range(first_row, first_row + sum(keep)))
    assert sorted(kept["place"].to_pylist() + rejected["place"].to_pylist()) == list(
        range(len(keys))
    )
    assert report.kept + sum(report.dropped.values()) == len(samples)
    for reason, count in report.dropped.items():
        assert rejected["reason"].to_pylist().count(reason) == count


def test_tables_about_other_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="2 rows of scores, 1 rows of metadata, 2 rows of uids"):
        purge(tmp_path, pa.table({"a": [1]}), keys=["0", "1"], keep=[True, True])
    with pytest.raises(RunError, match=r"'00001'.*\['00000'\]"):
        write_manifest(
            tmp_path,
            shard="00001",
            metadata=pa.table({"a": [1]}),
            scores=scores_of(["0"], [OK]),
            keep=np.array([True]),
            reasons=strings([""]),
            uids=strings([None]),
            first_row=0,
            stamp="",
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("keys", "status", "reasons", "cause"),
    [
        (["0", "1"], [EMPTY_CAPTION, OK], ["", MISMATCHED], "a reject is kept"),
        (["0", "1"], [OK, OK], ["", ""], "without a reason"),
        (["0", "1"], [OK, OK], ["", OK], "without a reason"),
        (["0", "0", "1"], [OK, OK, OK], ["", "", MISMATCHED], "share a key"),
    ],
)
def test_a_wrong_decision_writes_nothing(
    tmp_path: Path, keys: list[str], status: list[str], reasons: list[str], cause: str
) -> None:
    with pytest.raises(AssertionError, match=cause):
        write_manifest(
            tmp_path,
            shard="00000",
            metadata=pa.table({"a": keys}),
            scores=scores_of(keys, status),
            keep=np.array([True] * (len(keys) - 1) + [False]),
            reasons=strings(reasons),
            uids=strings([None] * len(keys)),
            first_row=0,
            stamp="",
        )
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_writing_leaves_the_earlier_purge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata, keys = pa.table({"a": [1, 2]}), ["0", "1"]
    purge(tmp_path, metadata, keys=keys, keep=[True, False])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    write = manifests._write

    def fail_on_rejects(
        table: pa.Table, path: Path, names: dict[str, str], written: manifests.Written
    ) -> None:
        write(table, path, names, written)
        if "reason" in names:
            raise OSError("no space")

    monkeypatch.setattr(manifests, "_write", fail_on_rejects)
    with pytest.raises(OSError, match="no space"):
        purge(tmp_path, metadata, keys=keys, keep=[False, True])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_manifests_are_read_by_name_of_the_shard(tmp_path: Path) -> None:
    for shard in ("b", "a-1", "a"):
        purge(tmp_path, pa.table({"status": ["s"]}), keys=["0"], keep=[True], shard=shard)
    batches = list(read_manifests(tmp_path, ["shard", "status"]))
    assert [batch["shard"][0].as_py() for batch in batches] == ["a", "a-1", "b"]
    assert all(batch["status"][0].as_py() == OK for batch in batches)


def test_outcomes_are_all_samples_of_a_shard_by_our_names(tmp_path: Path) -> None:
    keys = ["1", "2", "3"]
    metadata = pa.table({"key": pa.array([1, 2, 3]), "status": ["success", "success", "failed"]})
    purge(
        tmp_path,
        metadata,
        keys=keys,
        keep=[False, True, False],
        status=[OK, OK, UNDECODABLE_IMAGE],
    )
    outcomes = read_outcomes(tmp_path, "00000", ["status", "key"])
    assert outcomes.to_pydict() == {
        "status": [OK, OK, UNDECODABLE_IMAGE],
        "key": ["2", "1", "3"],
        "reason": [None, MISMATCHED, UNDECODABLE_IMAGE],
    }


def test_what_is_no_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="purge"):
        list(read_manifests(tmp_path, ["key"]))
    (tmp_path / "manifest").mkdir()
    pq.write_table(pa.table({"key": ["0"]}), tmp_path / "manifest" / "mine.parquet")
    with pytest.raises(RunError, match=r"mine\.parquet"):
        list(read_manifests(tmp_path, ["key"]))
