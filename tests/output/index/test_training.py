"""A trained index, against FAISS training the same index by itself."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from nccleaner.output.index import training
from nccleaner.output.index.kinds import Plan
from nccleaner.output.index.training import train_index


def sample(count: int, dim: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32)


@pytest.mark.parametrize("width", [8, 16])
def test_rotating_the_sample_where_it_is_gives_what_faiss_makes_of_it(monkeypatch, width):
    """The last block is short, and the width may be less than that of the vectors."""
    monkeypatch.setattr(training, "_ROTATION_VECTORS", 300)
    rotation = faiss.RandomRotationMatrix(16, width)
    rotation.init(3)
    vectors = sample(1000, 16)
    expected = rotation.apply(vectors)
    rotated = training._rotate(rotation, vectors)
    assert rotated.shape == (1000, width)
    assert rotated.flags.c_contiguous
    assert np.allclose(rotated, expected, atol=1e-6)
    assert np.shares_memory(rotated, vectors) == (width == 16)


@pytest.mark.parametrize("factory", ["OPQ4_8,IVF4,PQ4x8np", "OPQ4_16,IVF4,PQ4x8np"])
def test_the_trained_parts_are_those_of_faiss(factory):
    plan = Plan("ivf-pq", factory, 4000, 1 << 20)
    index = train_index(plan, sample(4000, 16), dim=16)
    assert index.is_trained
    rotation = faiss.downcast_VectorTransform(index.chain.at(0))
    lists = faiss.downcast_index(faiss.extract_index_ivf(index))
    usual = faiss.index_factory(16, factory, faiss.METRIC_INNER_PRODUCT)
    theirs = faiss.downcast_VectorTransform(usual.chain.at(0))
    for name in ("A", "b"):
        faiss.copy_array_to_vector(
            faiss.vector_to_array(getattr(rotation, name)), getattr(theirs, name)
        )
    theirs.is_trained = True
    own = faiss.downcast_index(faiss.extract_index_ivf(usual))
    own.pq.cp.max_points_per_centroid = lists.pq.cp.max_points_per_centroid
    usual.train(sample(4000, 16))
    for ours, expected in (
        (lists.quantizer.reconstruct_n(0, 4), own.quantizer.reconstruct_n(0, 4)),
        (faiss.vector_to_array(lists.pq.centroids), faiss.vector_to_array(own.pq.centroids)),
    ):
        assert np.allclose(ours, expected, atol=1e-4)


@pytest.mark.parametrize("factory", ["Flat", "HNSW8,Flat"])
def test_what_needs_no_training_is_left_empty(factory):
    kind = "flat" if factory == "Flat" else "hnsw"
    index = train_index(Plan(kind, factory, 0, 0), sample(0, 16), dim=16)
    assert (index.ntotal, index.is_trained) == (0, True)
