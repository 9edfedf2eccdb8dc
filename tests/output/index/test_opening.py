import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from vectors import SomeVectors, build

from nccleaner.errors import MissingDependencyError, RunError, UsageError
from nccleaner.output.index import opening
from nccleaner.output.index.opening import open_index

DIM = 16


def build_random(folder: Path, counts: dict[str, int], seed: int = 0) -> SomeVectors:
    vectors = SomeVectors(counts, dim=DIM, seed=seed)
    build(folder, vectors)
    return vectors


def unit(rng: np.random.Generator, n: int) -> np.ndarray:
    vectors = rng.normal(size=(n, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_search_agrees_with_brute_force(tmp_path: Path, modality: str) -> None:
    vectors = build_random(tmp_path / "index", {"a": 30, "c": 20}).rows[modality]
    queries = unit(np.random.default_rng(5), 4)
    index = open_index(tmp_path / "index")
    rows, products = index.search(modality, queries, 5)
    expected = queries @ vectors.T
    assert np.array_equal(rows, np.argsort(-expected, axis=1)[:, :5])
    assert np.allclose(products, np.take_along_axis(expected, rows, 1), atol=1e-6)
    rows, _ = index.search(modality, queries, 99)
    assert rows.shape == (4, 50)
    names = [("a", f"{r:05d}") if r < 30 else ("c", f"{r - 30:05d}") for r in rows[0]]
    assert index.ids(rows[0]) == names


@pytest.mark.parametrize("kind", ["hnsw", "ivf-flat", "ivf-pq"])
def test_more_is_looked_at_until_all_are_found_that_are_asked_for(
    tmp_path: Path, kind: str
) -> None:
    vectors = SomeVectors({"a": 1500}, dim=DIM)
    build(tmp_path / "index", vectors, kind)
    index = open_index(tmp_path / "index")
    queries = vectors.rows["text"][:20]
    right = np.argsort(-(queries @ vectors.rows["image"].T), axis=1)
    for k in (1, 10, 100, 1500):
        rows, products = index.search("image", queries, k)
        assert rows.shape == (20, k)
        assert (np.diff(products, axis=1)[rows[:, 1:] >= 0] <= 0).all()
        assert kind == "hnsw" or (rows >= 0).all()
        shares = [np.isin(a, b).mean() for a, b in zip(rows, right[:, :k], strict=True)]
        assert np.mean(shares) > (0.55 if kind == "ivf-pq" else 0.85)
    few = index.search("image", queries, 10)[0]
    index.search("image", queries, 1500)
    assert np.array_equal(index.search("image", queries, 10)[0], few)


def test_queries_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    build_random(tmp_path / "index", {"a": 1})
    index = open_index(tmp_path / "index")
    with pytest.raises(UsageError, match=r"\[n, 16\], not \[2, 8\]"):
        index.search("image", np.zeros((2, 8), np.float32), 1)
    with pytest.raises(UsageError, match="0 pairs"):
        index.search("image", np.zeros((2, DIM), np.float32), 0)


@pytest.mark.parametrize("name", ["image.faiss", "text.faiss", "ids.parquet"])
def test_files_of_another_index_are_detected(tmp_path: Path, name: str) -> None:
    build_random(tmp_path / "index", {"a": 30})
    build_random(tmp_path / "other", {"b": 30}, seed=1)
    assert (tmp_path / "index" / name).stat().st_size == (tmp_path / "other" / name).stat().st_size
    (tmp_path / "other" / name).replace(tmp_path / "index" / name)
    with pytest.raises(RunError, match=name):
        open_index(tmp_path / "index")
    with pytest.raises(RunError, match=name):
        open_index(tmp_path / "other")


def test_one_changed_key_is_detected(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    build_random(folder, {"a": 3})
    ids = pq.read_table(folder / "ids.parquet")
    pq.write_table(
        ids.set_column(2, "key", pa.array(["00000", "00001", "0000X"])), folder / "ids.parquet"
    )
    with pytest.raises(RunError, match=r"ids\.parquet"):
        open_index(folder)


@pytest.mark.parametrize("name", ["image.faiss", "ids.parquet"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    build_random(tmp_path, {"a": 3})
    (tmp_path / name).unlink()
    with pytest.raises(RunError, match=f"{name} is missing"):
        open_index(tmp_path)


def test_every_byte_of_a_small_index_counts_and_the_ends_of_a_large_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_BLOCK_BYTES", 8)
    monkeypatch.setattr(opening, "_BLOCKS", 4)

    def checksum(content: bytes) -> str:
        (tmp_path / "file").write_bytes(content)
        return opening._checksum(tmp_path / "file")

    for size in range(1, 33):
        changed = [bytes(place == byte for place in range(size)) for byte in range(size)]
        assert len({checksum(content) for content in [bytes(size), *changed]}) == size + 1
    assert len({checksum(c) for c in (bytes(99), bytes(98) + b"1", b"1" + bytes(98))}) == 3


def test_a_missing_index_and_a_missing_faiss_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RunError, match="nccleaner purge"):
        open_index(tmp_path)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingDependencyError) as error:
        open_index(tmp_path)
    assert error.value.next_step == "pip install 'nccleaner[cpu]'"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": "flat", "count": 3, "checksums": {}}'])
def test_a_damaged_or_older_index_json_says_what_to_do(tmp_path: Path, text: str) -> None:
    build_random(tmp_path, {"a": 3})
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(RunError, match="nccleaner index"):
        open_index(tmp_path)
