"""`index`: other kinds of index of one purge, against its manifests and brute force."""

from __future__ import annotations

import json
import shutil

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import nccleaner
from nccleaner.errors import RunError, UsageError
from nccleaner.output.index.opening import open_index
from nccleaner.pipeline.reporter import SilentReporter
from nccleaner.pipeline.score import Scoring
from nccleaner.pipeline.vectors import KeptVectors


@pytest.fixture
def run(fitted, tmp_path):
    """The run, to write into."""
    return shutil.copytree(fitted.run, tmp_path / "run")


def kept_rows(run) -> list[dict]:
    tables = [
        pq.read_table(path, columns=["row", "shard", "key", "similarity"])
        for path in sorted((run / "clean" / "manifest").glob("*.parquet"))
    ]
    return pa.concat_tables(tables).sort_by("row").to_pylist()


def test_purge_builds_of_kind_auto(fitted):
    about = json.loads((fitted.run / "clean" / "index" / "index.json").read_text())
    assert about["kind"] == "flat"
    assert about["recall_at_10"] == {"image": 1, "text": 1}


@pytest.mark.parametrize("kind", ["auto", "flat", "hnsw", "ivf-flat"])
def test_rows_are_those_of_the_manifests_and_products_the_similarities(run, kind):
    for path in (run / "clean" / "index").iterdir():
        path.unlink()
    (run / "clean" / "index").rmdir()
    result = nccleaner.index(run, kind=kind)

    rows = kept_rows(run)
    assert result.report.kind == ("flat" if kind == "auto" else kind)
    assert result.report.count == len(rows)
    assert set(result.report.recall_at_10) == {"image", "text"}
    ids = pq.read_table(run / "clean" / "index" / "ids.parquet").to_pylist()
    assert ids == [{name: row[name] for name in ("row", "shard", "key")} for row in rows]
    halves = []
    for name in ("image", "text"):
        index = faiss.read_index(str(run / "clean" / "index" / f"{name}.faiss"))
        if kind == "ivf-flat":
            index.make_direct_map()
        halves.append(index.reconstruct_n(0, index.ntotal))
    products = np.sum(halves[0] * halves[1], axis=1)
    assert np.allclose(products, [row["similarity"] for row in rows], atol=1e-3)
    assert len(nccleaner.search(run, "a red bird", count=5)) == 5


def test_vectors_are_the_same_however_they_are_asked_for(fitted):
    scoring = Scoring.open(fitted.run, None)
    shards = scoring.inputs()
    vectors = KeptVectors(scoring, shards, scoring.store.parts(shards, SilentReporter()))
    for modality in ("image", "text"):
        whole = np.concatenate(list(vectors.blocks(modality)))
        assert whole.shape == (vectors.count, vectors.dim)
        assert np.allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)
        rows = np.array([0, 0, 3, vectors.count // 2, vectors.count - 1])
        assert np.allclose(vectors.at(modality, rows), whole[rows], atol=1e-5)
        assert vectors.at(modality, rows[:0]).shape == (0, vectors.dim)
    names = [(shard, key) for shard, keys in vectors.names() for key in keys]
    assert names == [(row["shard"], row["key"]) for row in kept_rows(fitted.run)]


def test_too_few_pairs_for_a_kind_leave_the_index_that_is_there(run):
    before = (run / "clean" / "index" / "index.json").read_bytes()
    with pytest.raises(UsageError, match="256 pairs at least"):
        nccleaner.index(run, kind="ivf-pq")
    assert (run / "clean" / "index" / "index.json").read_bytes() == before


@pytest.mark.parametrize("arguments", [{"kind": "fast"}, {"memory_gb": 0}, {"memory_gb": -1}])
def test_arguments_that_make_no_sense_are_refused(fitted, arguments):
    with pytest.raises(UsageError, match="Use one of auto, flat"):
        nccleaner.index(fitted.run, **arguments)


def test_without_a_purge_there_is_nothing_to_index(run):
    (run / "clean" / "summary.json").unlink()
    with pytest.raises(RunError, match="nccleaner purge"):
        nccleaner.index(run)


def test_a_manifest_that_is_missing_or_of_other_pairs_is_found(run):
    path = run / "clean" / "manifest" / "00000.parquet"
    table = pq.read_table(path)
    keys = pa.array(["nobody", *table["key"].to_pylist()[1:]])
    place = table.schema.get_field_index("key")
    pq.write_table(table.set_column(place, "key", keys), path)
    with pytest.raises(RunError, match=f"lists {len(table)} pairs; the shard has {len(table) - 1}"):
        nccleaner.index(run)
    path.unlink()
    with pytest.raises(RunError, match=r"00000\.parquet is missing"):
        nccleaner.index(run)


def test_an_index_of_another_fit_is_not_searched(run):
    path = run / "clean" / "index" / "index.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "scorer": "another"}))
    with pytest.raises(RunError, match="made by another fit"):
        nccleaner.search(run, "a bird")


def test_the_files_of_a_folder_belong_together(run):
    nccleaner.index(run, kind="hnsw")
    mixed = run / "clean" / "index" / "ids.parquet"
    table = pq.read_table(mixed)
    pq.write_table(table.take(pa.array(range(len(table))[::-1])), mixed)
    with pytest.raises(RunError, match=r"ids\.parquet") as error:
        open_index(run / "clean" / "index")
    assert "nccleaner index" in error.value.next_step
