import json
import sys
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nccleaner.errors import MissingDependencyError, RunError, UsageError
from nccleaner.output import indexes
from nccleaner.output.indexes import build_index, open_index

DIM = 16


def unit(rng: np.random.Generator, n: int) -> np.ndarray:
    vectors = rng.normal(size=(n, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def build(folder: Path, counts: dict[str, int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    images, texts = [np.empty((0, DIM), np.float32)], [np.empty((0, DIM), np.float32)]
    with build_index(folder, dim=DIM) as builder:
        for shard, count in counts.items():
            images.append(unit(rng, count))
            texts.append(unit(rng, count))
            keys = [f"{i:03d}" for i in range(count)]
            builder.add(shard=shard, keys=keys, image=images[-1], text=texts[-1])
    return np.concatenate(images), np.concatenate(texts)


def test_row_r_of_both_indexes_is_pair_r(tmp_path: Path) -> None:
    image, text = build(tmp_path / "index", {"a": 30, "b": 0, "c": 20})
    folder = tmp_path / "index"
    assert {path.name for path in tmp_path.iterdir()} == {"index"}
    assert {path.name for path in folder.iterdir()} == {
        "image.faiss",
        "text.faiss",
        "ids.parquet",
        "index.json",
    }
    ids = pq.read_table(folder / "ids.parquet")
    assert ids.schema.equals(
        pa.schema([("row", pa.int64()), ("shard", pa.string()), ("key", pa.string())])
    )
    assert ids["row"].to_pylist() == list(range(50))
    stored = {name: faiss.read_index(str(folder / f"{name}.faiss")) for name in ("image", "text")}
    for row in range(50):
        product = stored["image"].reconstruct(row) @ stored["text"].reconstruct(row)
        assert product == pytest.approx(image[row] @ text[row], abs=1e-6)
    about = json.loads((folder / "index.json").read_text())
    assert (about["kind"], about["metric"], about["dim"], about["count"]) == (
        "flat",
        "inner_product",
        DIM,
        50,
    )


@pytest.mark.parametrize("modality", ["image", "text"])
def test_search_agrees_with_brute_force(tmp_path: Path, modality: str) -> None:
    image, text = build(tmp_path / "index", {"a": 30, "c": 20})
    vectors = image if modality == "image" else text
    queries = unit(np.random.default_rng(5), 4)
    index = open_index(tmp_path / "index")
    rows, products = index.search(modality, queries, 5)
    expected = queries @ vectors.T
    assert np.array_equal(rows, np.argsort(-expected, axis=1)[:, :5])
    assert np.allclose(products, np.take_along_axis(expected, rows, 1), atol=1e-6)
    rows, _ = index.search(modality, queries, 99)
    assert rows.shape == (4, 50)
    names = [("a", f"{r:03d}") if r < 30 else ("c", f"{r - 30:03d}") for r in rows[0]]
    assert index.ids(rows[0]) == names


def test_an_empty_index_finds_nothing(tmp_path: Path) -> None:
    build(tmp_path / "index", {})
    index = open_index(tmp_path / "index")
    rows, products = index.search("text", unit(np.random.default_rng(0), 2), 3)
    assert (rows.shape, products.shape, index.count) == ((2, 0), (2, 0), 0)
    assert index.ids(rows[0]) == []


def test_queries_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    build(tmp_path / "index", {"a": 1})
    index = open_index(tmp_path / "index")
    with pytest.raises(UsageError, match=r"\[n, 16\], not \[2, 8\]"):
        index.search("image", np.zeros((2, 8), np.float32), 1)
    with pytest.raises(UsageError, match="0 pairs"):
        index.search("image", np.zeros((2, DIM), np.float32), 0)


@pytest.mark.parametrize("name", ["image.faiss", "text.faiss", "ids.parquet"])
def test_files_of_another_index_are_detected(tmp_path: Path, name: str) -> None:
    build(tmp_path / "index", {"a": 30})
    build(tmp_path / "other", {"b": 30}, seed=1)
    assert (tmp_path / "index" / name).stat().st_size == (tmp_path / "other" / name).stat().st_size
    (tmp_path / "other" / name).replace(tmp_path / "index" / name)
    with pytest.raises(RunError, match=name):
        open_index(tmp_path / "index")
    with pytest.raises(RunError, match=name):
        open_index(tmp_path / "other")


def test_one_changed_key_is_detected(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    build(folder, {"a": 3})
    ids = pq.read_table(folder / "ids.parquet")
    pq.write_table(
        ids.set_column(2, "key", pa.array(["000", "001", "00X"])), folder / "ids.parquet"
    )
    with pytest.raises(RunError, match=r"ids\.parquet"):
        open_index(folder)


@pytest.mark.parametrize("name", ["image.faiss", "ids.parquet"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    build(tmp_path, {"a": 3})
    (tmp_path / name).unlink()
    with pytest.raises(RunError, match=f"{name} is missing"):
        open_index(tmp_path)


def test_every_byte_of_a_small_index_counts_and_the_ends_of_a_large_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "_BLOCK_BYTES", 8)
    monkeypatch.setattr(indexes, "_BLOCKS", 4)

    def checksum(content: bytes) -> str:
        (tmp_path / "file").write_bytes(content)
        return indexes._sample_checksum(tmp_path / "file")

    for size in range(1, 33):
        changed = [bytes(place == byte for place in range(size)) for byte in range(size)]
        assert len({checksum(content) for content in [bytes(size), *changed]}) == size + 1
    assert len({checksum(c) for c in (bytes(99), bytes(98) + b"1", b"1" + bytes(98))}) == 3


def test_an_earlier_index_survives_an_error_and_gives_way_to_a_whole_one(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    build(folder, {"a": 3})
    with pytest.raises(ZeroDivisionError), build_index(folder, dim=DIM):
        raise ZeroDivisionError
    assert open_index(folder).count == 3
    assert {path.name for path in tmp_path.iterdir()} == {"index"}
    build(folder, {"a": 5}, seed=1)
    assert open_index(folder).count == 5
    assert {path.name for path in tmp_path.iterdir()} == {"index"}


def test_vectors_that_are_not_finite_are_a_bug(tmp_path: Path) -> None:
    bad = np.full((1, DIM), np.nan, np.float32)
    with (
        pytest.raises(AssertionError, match="text vector"),
        build_index(tmp_path / "index", dim=DIM) as builder,
    ):
        builder.add(shard="a", keys=["0"], image=np.zeros_like(bad), text=bad)


def test_a_missing_index_and_a_missing_faiss_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RunError, match="nccleaner purge"):
        open_index(tmp_path)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingDependencyError) as error:
        open_index(tmp_path)
    assert error.value.next_step == "pip install 'nccleaner[cpu]'"
