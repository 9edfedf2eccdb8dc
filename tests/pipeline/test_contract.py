"""What a run writes, to the letter of the contract."""

from __future__ import annotations

import json
from collections import Counter

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import nccleaner
from nccleaner.data.writing import DOWNLOAD_SCHEMA
from nccleaner.identity import hash_pair
from nccleaner.output.uids import UID_DTYPE, to_numbers

SCORES = [
    ("shard", pa.string()),
    ("key", pa.string()),
    ("similarity", pa.float32()),
    ("corrected_similarity", pa.float32()),
    ("clean_probability", pa.float32()),
    ("fitted", pa.bool_()),
    ("status", pa.string()),
]


@pytest.fixture(scope="module")
def clean(fitted):
    return fitted.run / "clean"


@pytest.fixture(scope="module")
def scores(fitted):
    return pa.concat_tables(
        pq.read_table(path) for path in sorted((fitted.run / "scores").glob("*.parquet"))
    )


def read_all(folder):
    return [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]


def names_of(tables):
    return [
        (row["shard"], row["key"])
        for table in tables
        for row in table.select(["shard", "key"]).to_pylist()
    ]


def test_scores_have_the_columns_and_types_of_the_contract(fitted):
    for path in (fitted.run / "scores").glob("*.parquet"):
        schema = pq.read_schema(path)
        assert list(zip(schema.names, schema.types, strict=True)) == SCORES


def test_scores_are_in_their_ranges(scores):
    for name, low in (
        ("similarity", -1.0),
        ("corrected_similarity", 0.0),
        ("clean_probability", 0.0),
    ):
        values = scores[name].to_numpy()
        assert np.isfinite(values).all()
        assert values.min() >= low
        assert values.max() <= 1.0


def test_manifests_hold_the_shards_columns_then_ours(clean):
    own = list(zip(DOWNLOAD_SCHEMA.names, DOWNLOAD_SCHEMA.types, strict=True))
    kinds = dict(SCORES) | {"nccleaner_status": pa.string(), "uid": pa.string()}
    # `key` serves for both, and img2dataset has a `status` of its own.
    ours = ["uid", "shard", *(name for name, _ in SCORES[2:-1]), "nccleaner_status"]
    for folder, last in (("manifest", []), ("rejected", [("reason", pa.string())])):
        for table in read_all(clean / folder):
            found = list(zip(table.schema.names, table.schema.types, strict=True))
            assert found[: len(own)] == own
            expected = [(name, kinds[name]) for name in ours] + [("row", pa.int64()), *last]
            assert found[len(own) :] == expected


def test_every_sample_is_in_a_manifest_or_among_the_rejects(clean, scores, clipart):
    kept, rejected = read_all(clean / "manifest"), read_all(clean / "rejected")
    found = Counter(names_of(kept) + names_of(rejected))

    assert found == Counter(names_of([scores]))
    assert set(found.values()) == {1}
    assert Counter(key for _, key in found) == Counter(row.key for row in clipart.rows)
    assert all(name in table.column_names for table in rejected for name in ("reason",))


def test_metadata_pass_through_unchanged(clean, fitted):
    for shard in ("00000", "00001"):
        own = {
            row["key"]: row for row in pq.read_table(fitted.shards / f"{shard}.parquet").to_pylist()
        }
        for folder in ("manifest", "rejected"):
            table = pq.read_table(clean / folder / f"{shard}.parquet")
            for row in table.select(DOWNLOAD_SCHEMA.names).to_pylist():
                assert row == own[row["key"]]


def test_rows_of_the_indexes_are_the_rows_of_the_manifests(clean):
    ids = pq.read_table(clean / "index" / "ids.parquet")
    manifests = read_all(clean / "manifest")

    assert ids.schema.names == ["row", "shard", "key"]
    assert ids["row"].to_pylist() == list(range(len(ids)))
    assert [row for table in manifests for row in table["row"].to_pylist()] == list(range(len(ids)))
    assert names_of([ids]) == names_of(manifests)
    for table in read_all(clean / "rejected"):
        assert table["row"].null_count == len(table)


def test_inner_products_of_the_indexes_are_the_similarities(clean):
    image, text = (
        faiss.read_index(str(clean / "index" / f"{name}.faiss")) for name in ("image", "text")
    )
    similarity = np.concatenate([t["similarity"].to_numpy() for t in read_all(clean / "manifest")])
    assert image.ntotal == text.ntotal == len(similarity) > 0
    images, texts = image.reconstruct_n(0, image.ntotal), text.reconstruct_n(0, text.ntotal)

    np.testing.assert_allclose((images * texts).sum(axis=1), similarity, atol=1e-3)
    products, rows = image.search(texts, image.ntotal)
    for row in range(len(similarity)):
        found = products[row][rows[row] == row][0]
        assert found == pytest.approx(similarity[row], abs=1e-3)


def test_uids_are_those_of_the_kept_pairs_sorted(clean):
    uids = np.load(clean / "uids.npy")
    kept = names_of(read_all(clean / "manifest"))

    assert uids.dtype == UID_DTYPE
    assert np.array_equal(uids, np.sort(uids))
    assert np.array_equal(uids, np.sort(to_numbers(b"".join(hash_pair(*name) for name in kept))))


def test_the_summary_adds_up(clean, fitted, scores):
    summary = json.loads((clean / "summary.json").read_text())
    kept, rejected = read_all(clean / "manifest"), read_all(clean / "rejected")
    reasons = Counter(reason for table in rejected for reason in table["reason"].to_pylist())

    assert summary["samples"] == len(scores) == summary["kept"] + sum(summary["dropped"].values())
    assert summary["kept"] == sum(map(len, kept))
    assert summary["dropped"] == dict(reasons)
    for name in ("mismatched_before", "mismatched_after", "good_lost", "precision", "recall"):
        estimate = summary[name]
        assert 0 <= estimate["low"] <= estimate["value"] <= estimate["high"] <= 1
        assert estimate["level"] == 0.95
    assert summary["kept"] == fitted.purged.summary.kept


def test_the_keep_set_knows_the_kept_pairs_and_no_others(clean, fitted):
    keep = nccleaner.KeepSet(fitted.run)

    assert len(keep) == fitted.purged.summary.kept
    assert all(name in keep for name in names_of(read_all(clean / "manifest")))
    assert not any(name in keep for name in names_of(read_all(clean / "rejected")))


def test_fitted_says_what_was_in_the_pool(fitted, scores, clipart):
    inside = {row["key"] for row in scores.to_pylist() if row["fitted"]}
    pool = pq.read_table(fitted.run / "checkpoints" / "pool.parquet")
    untrusted = {row.key for row in clipart.rows} - set(clipart.trusted)
    labelled_0 = set(clipart.mismatched(6))

    assert pool.column_names == ["shard", "key", "belief"]
    assert inside == set(pool["key"].to_pylist())
    assert len(untrusted - labelled_0 - inside) == fitted.result.exchanged == 10
    # Noisy pairs come first, in the state of training as in the file.
    state = torch.load(fitted.run / "checkpoints" / "state.pt", weights_only=True)
    belief = torch.stack(state["training"]["weights"]).mean(dim=0).numpy()
    planted, exchanged = fitted.result.trusted["probe"], fitted.result.exchanged
    noisy = fitted.result.pool - planted - exchanged
    np.testing.assert_array_equal(pool["belief"].to_numpy()[:noisy], belief[:noisy])
    np.testing.assert_array_equal(pool["belief"].to_numpy()[noisy:], belief[noisy:-exchanged])
    # Planted pairs are in the pool as they are, mismatched ones too.
    inside_labelled_0 = inside & labelled_0
    assert len(inside & set(clipart.trusted)) + len(inside_labelled_0) == planted
    assert len(inside_labelled_0) >= 1


def test_trusted_pairs_are_kept_and_mismatched_ones_dropped(clean, clipart):
    kept = {key for _, key in names_of(read_all(clean / "manifest"))}

    assert set(clipart.trusted) <= kept
    assert not kept & set(clipart.mismatched(6))


def test_the_run_directory_holds_what_the_contract_names(fitted):
    described = json.loads((fitted.run / "run.json").read_text())
    assert described["seed"] == 0
    assert [shard["name"] for shard in described["shards"]] == ["00000", "00001"]
    assert all(shard["size_bytes"] > 0 and shard["version"] for shard in described["shards"])
    assert described["config"]["train"]["epochs"] == 2
    assert described["versions"]["torch"]
    assert described["result"]["seconds"] > 0
    lines = [json.loads(line) for line in (fitted.run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["kind"] == "epoch"] == [1, 2]
    assert {file.name for file in (fitted.run / "checkpoints").iterdir()} == {
        "best.safetensors",
        "last.safetensors",
        "state.pt",
        "pool.parquet",
        "trusted.parquet",
    }
    assert not (fitted.run / "training").exists()
    assert not list(fitted.run.rglob(".nccleaner-*"))


def test_nothing_is_written_into_the_input_folder(fitted):
    assert sorted(path.name for path in fitted.shards.iterdir()) == [
        f"{shard}{suffix}"
        for shard in ("00000", "00001")
        for suffix in (".parquet", ".tar", "_stats.json")
    ]
