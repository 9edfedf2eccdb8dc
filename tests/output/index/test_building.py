import json
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from vectors import SomeVectors, build

from nccleaner.output.index import building
from nccleaner.output.index.building import _draw_rows
from nccleaner.output.index.kinds import KINDS
from nccleaner.output.index.library import comparing_many
from nccleaner.output.index.opening import open_index

COUNTS = {"a": 900, "b": 0, "c": 600}


@pytest.mark.parametrize("kind", KINDS)
def test_row_r_of_both_indexes_is_pair_r(tmp_path: Path, kind: str) -> None:
    vectors = SomeVectors(COUNTS)
    folder = tmp_path / "index"
    report = build(folder, vectors, kind, memory_bytes=20_000)
    names = {"image.faiss", "text.faiss", "ids.parquet", "index.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"index"}
    assert {path.name for path in folder.iterdir()} == names
    ids = pq.read_table(folder / "ids.parquet")
    assert ids.schema.equals(
        pa.schema([("row", pa.int64()), ("shard", pa.string()), ("key", pa.string())])
    )
    assert ids["row"].to_pylist() == list(range(1500))
    assert ids.slice(900, 1).to_pylist() == [{"row": 900, "shard": "c", "key": "00000"}]
    for modality in ("image", "text"):
        stored = faiss.read_index(str(folder / f"{modality}.faiss"))
        assert (stored.ntotal, stored.metric_type) == (1500, faiss.METRIC_INNER_PRODUCT)
        if kind.startswith("ivf"):
            faiss.extract_index_ivf(stored).make_direct_map()
        loose = 0.7 if kind == "ivf-pq" else 1e-6  # codes of 4 bytes for 16 numbers
        exact = vectors.rows[modality]
        for row in (0, 899, 900, 1499):
            assert np.linalg.norm(stored.reconstruct(row) - exact[row]) < loose
        assert report.size_bytes[modality] == (folder / f"{modality}.faiss").stat().st_size


@pytest.mark.parametrize("kind", KINDS)
def test_index_json_says_what_it_is_and_the_recall_is_that_of_brute_force(
    tmp_path: Path, kind: str
) -> None:
    vectors = SomeVectors(COUNTS)
    build(tmp_path / "index", vectors, kind)
    about = json.loads((tmp_path / "index" / "index.json").read_text())
    assert about["kind"] == kind
    assert (about["metric"], about["dim"], about["count"]) == ("inner_product", 16, 1500)
    assert about["scorer"] == "scorer"
    assert about["recall_queries"] == 100
    index = open_index(tmp_path / "index")
    for modality, asking in (("image", "text"), ("text", "image")):
        queries = vectors.rows[asking]
        right = np.argsort(-(queries @ vectors.rows[modality].T), axis=1)[:, :10]
        found = index.search(modality, queries, 10)[0]
        shares = [np.isin(a, b).mean() for a, b in zip(found, right, strict=True)]
        measured = about["recall_at_10"][modality]
        # A sample of 100 of 1,500 queries.
        assert measured == pytest.approx(np.mean(shares), abs=4 * np.std(shares) / 100**0.5 + 1e-9)
        assert (measured == 1) if kind == "flat" else measured > 0.5


def test_the_same_vectors_give_the_same_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        build(tmp_path / name, SomeVectors(COUNTS), "ivf-pq", memory_bytes=3_000)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("counts", [{}, {"a": 0}])
def test_an_empty_index_finds_nothing(tmp_path: Path, counts: dict[str, int]) -> None:
    report = build(tmp_path / "index", SomeVectors(counts))
    assert report.recall_at_10 == {"image": None, "text": None}
    index = open_index(tmp_path / "index")
    rows, products = index.search("text", np.zeros((2, 16), np.float32), 3)
    assert (rows.shape, products.shape, index.count) == ((2, 0), (2, 0), 0)
    assert index.ids(rows[0]) == []


@pytest.mark.parametrize("count", [1, 2, 9])
def test_fewer_pairs_than_are_asked_for(tmp_path: Path, count: int) -> None:
    for kind in ("flat", "hnsw", "ivf-flat"):
        report = build(tmp_path / kind, SomeVectors({"a": count}), kind)
        assert report.recall_at_10 == {"image": 1, "text": 1}


def test_an_earlier_index_survives_an_error_and_gives_way_to_a_whole_one(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    build(folder, SomeVectors({"a": 3}))
    broken = SomeVectors({"a": 5})
    broken.rows["text"][4] = np.nan
    with pytest.raises(AssertionError, match="text that is not finite"):
        build(folder, broken)
    assert open_index(folder).count == 3
    assert {path.name for path in tmp_path.iterdir()} == {"index"}
    build(folder, SomeVectors({"a": 5}, seed=1))
    assert open_index(folder).count == 5
    assert {path.name for path in tmp_path.iterdir()} == {"index"}


@pytest.mark.parametrize(("size", "count"), [(0, 0), (0, 9), (1, 1), (7, 7), (5, 8), (100, 12_345)])
def test_a_sample_is_of_different_rows_from_all_over(size: int, count: int) -> None:
    drawn = np.stack([_draw_rows(np.random.default_rng(s), size, count) for s in range(400)])
    assert drawn.shape == (400, size)
    assert (np.diff(drawn, axis=1) > 0).all()
    if size:
        assert np.isin(drawn, np.arange(count)).all()
        assert drawn.mean() == pytest.approx((count - 1) / 2, abs=0.5 + 0.005 * count)
        assert len(np.unique(drawn)) > 0.9 * count or count > 400


def test_names_are_found_wherever_they_lie_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "_IDS_TOGETHER", 250)
    counts = {"a": 100, "b": 0, "c": 700, "d": 1, "e": 249, "f": 50}
    build(tmp_path, SomeVectors(counts))
    names = [(shard, f"{row:05d}") for shard, count in counts.items() for row in range(count)]
    assert pq.ParquetFile(tmp_path / "ids.parquet").num_row_groups == 3
    index = open_index(tmp_path)
    for rows in ([0], [1099], [800, 5, 800, 1050, 99, 100], list(range(1100))[::-1], []):
        assert index.ids(np.array(rows, np.int64)) == [names[row] for row in rows]


def test_faiss_is_left_as_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = faiss.cvar.distance_compute_blas_threshold
    with comparing_many():
        assert faiss.cvar.distance_compute_blas_threshold == 20
    build(tmp_path / "index", SomeVectors({"a": 300}), "ivf-pq")
    assert faiss.cvar.distance_compute_blas_threshold == before
    assert capfd.readouterr() == ("", "")  # it warns, in C, of small samples
