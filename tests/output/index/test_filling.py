"""Lists that were filled on disk, against FAISS's own file of lists filled in memory."""

from pathlib import Path

import faiss
import numpy as np
import pytest

from nccleaner.output.index.filling import FillingInMemory, FillingOnDisk


def trained(factory: str, vectors: np.ndarray) -> faiss.Index:
    index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    return index


@pytest.mark.parametrize("factory", ["IVF5,Flat", "OPQ4_8,IVF5,PQ4x4np"])
@pytest.mark.parametrize("memory_bytes", [1, 5_000, 1 << 20])
def test_the_file_is_the_same_byte_for_byte(
    tmp_path: Path, factory: str, memory_bytes: int
) -> None:
    vectors = np.random.default_rng(0).normal(size=(700, 16)).astype(np.float32)
    index = trained(factory, vectors)
    usual = faiss.clone_index(index)
    usual.add(vectors)
    faiss.extract_index_ivf(usual).nprobe = 3
    faiss.write_index(usual, str(tmp_path / "usual"))

    filling = FillingOnDisk(index, tmp_path / "ours", memory_bytes=memory_bytes)
    for block in np.split(vectors, [1, 200, 200, 640]):
        filling.add(block)
    finished = filling.finish()
    faiss.extract_index_ivf(finished).nprobe = 3
    found = finished.search(vectors[:9], 4)
    filling.write()

    assert (tmp_path / "ours").read_bytes() == (tmp_path / "usual").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"ours", "usual"}
    expected = usual.search(vectors[:9], 4)
    assert np.array_equal(found[1], expected[1])
    assert np.allclose(found[0], expected[0])


def test_no_more_than_the_limit_is_held_in_memory(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(1000, 16)).astype(np.float32)
    index = trained("IVF5,Flat", vectors)
    filling = FillingOnDisk(index, tmp_path / "index", memory_bytes=100 * 64)
    held = []
    for block in np.split(vectors, 20):
        filling.add(block)
        held.append(index.ntotal)
    assert max(held) < 100
    assert filling.finish().ntotal == 1000


def test_lists_that_stay_empty(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)
    index = trained("IVF50,Flat", vectors)
    filling = FillingOnDisk(index, tmp_path / "index", memory_bytes=1 << 20)
    filling.add(vectors[:3])
    faiss.extract_index_ivf(filling.finish()).nprobe = 50
    filling.write()
    rows = faiss.read_index(str(tmp_path / "index")).search(vectors[:3], 5)[1]
    assert rows[:, 0].tolist() == [0, 1, 2]
    assert (rows[:, 3:] == -1).all()


@pytest.mark.parametrize("factory", ["Flat", "HNSW8,Flat"])
def test_other_kinds_are_written_by_faiss(tmp_path: Path, factory: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)
    filling = FillingInMemory(trained(factory, vectors), tmp_path / "index")
    for block in np.split(vectors, 3):
        filling.add(block)
    found = filling.finish().search(vectors[:5], 3)[1]
    filling.write()
    assert np.array_equal(
        faiss.read_index(str(tmp_path / "index")).search(vectors[:5], 3)[1], found
    )


def test_another_copy_may_find_the_lists(tmp_path: Path) -> None:
    """As one on GPUs does, which cannot be written."""
    vectors = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
    index = trained("IVF5,Flat", vectors)
    usual = faiss.clone_index(index)
    usual.add(vectors)
    faiss.write_index(usual, str(tmp_path / "usual"))
    own = faiss.downcast_index(index.quantizer)
    finder = faiss.clone_index(own)
    centres = own.reconstruct_n(0, own.ntotal)
    filling = FillingOnDisk(index, tmp_path / "ours", memory_bytes=1 << 20, finder=finder)
    own.reset()  # finds no list any more
    for block in np.split(vectors, 5):
        filling.add(block)
    own.add(centres)
    filling.finish()
    filling.write()
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "usual").read_bytes()
