from __future__ import annotations

import numpy as np
import pytest

from nccleaner.data import nearest
from nccleaner.data.nearest import NEAREST, nearest_captions, word_vectors

CAPTIONS = [
    "a brown dog runs over the grass",
    "the brown dog is running on green grass",
    "a dog on the beach",
    "two people climb a mountain",
    "people climbing a snowy mountain",
    "Zwei Menschen auf einem Berg",
]


def brute_force(vectors, images, captions):
    """Sorts all others of each pair in plain Python."""
    found = []
    for i in range(len(vectors)):
        others = [
            j
            for j in range(len(vectors))
            if images[i] != images[j] and captions[i] != captions[j] and vectors[i] @ vectors[j] > 0
        ]
        best = sorted(others, key=lambda j: -(vectors[i] @ vectors[j]))[:NEAREST]
        found.append(best + [-1] * (NEAREST - len(best)))
    return found


@pytest.mark.parametrize("block_values", [1, 300, 1 << 24])
@pytest.mark.parametrize("count", [0, 1, 7, 60])
def test_nearest_captions_agree_with_sorting(monkeypatch, count, block_values):
    monkeypatch.setattr(nearest, "_BLOCK_VALUES", block_values)
    rng = np.random.default_rng(count)
    # Whole numbers: products are exact, and there are ties.
    vectors = rng.integers(-2, 3, (count, 4)).astype(np.float32)
    images, captions = rng.integers(0, 20, count), [str(k) for k in rng.integers(0, 40, count)]
    found = nearest_captions(vectors, image_ids=images, captions=captions)
    assert found.shape == (count, NEAREST)
    assert found.tolist() == brute_force(vectors, images, captions)


def test_captions_that_share_rare_words_are_nearest():
    vectors = word_vectors(CAPTIONS)
    found = nearest_captions(vectors, image_ids=range(6), captions=CAPTIONS)
    assert found[[0, 1, 3, 4], 0].tolist() == [1, 0, 4, 3]
    assert set(found[2, :2]) == {0, 1}
    assert found[5].tolist() == [-1] * NEAREST
    lengths = np.sqrt(vectors.multiply(vectors).sum(axis=1))
    np.testing.assert_allclose(lengths, 1, rtol=1e-6)


def test_dense_and_sparse_vectors_give_the_same():
    captions = [f"{word} number {k % 7}" for k, word in enumerate(" ".join(CAPTIONS).split())]
    vectors, images = word_vectors(captions), np.arange(len(captions)) // 2
    sparse = nearest_captions(vectors, image_ids=images, captions=captions)
    dense = nearest_captions(vectors.toarray(), image_ids=images, captions=captions)
    similarity = (vectors @ vectors.T).toarray()
    assert np.array_equal(sparse < 0, dense < 0)
    for row, a, b in zip(similarity, sparse, dense, strict=True):
        np.testing.assert_allclose(row[a], row[b], rtol=1e-5)  # ties may fall to another


@pytest.mark.parametrize("captions", [[], ["...", "!"]])
def test_captions_without_words_have_no_neighbours(captions):
    found = nearest_captions(
        word_vectors(captions), image_ids=range(len(captions)), captions=captions
    )
    assert (found == -1).all()
