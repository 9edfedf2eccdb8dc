from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nccleaner.data.noise import (
    NoiseKind,
    classes_of,
    exchange,
    mismatched,
    permute_captions,
    share_nearest,
)
from nccleaner.errors import UsageError

ids = st.lists(st.integers(0, 8), max_size=60)


def permute(images, *, kind, seed=0, ratio=1.0):
    """With up to ten random neighbours of other images, and four categories."""
    classes = np.asarray(images, dtype=np.int64)
    n = len(classes)
    nearest = np.random.default_rng(seed).integers(0, max(n, 1), (n, 10))
    nearest[classes[nearest] == classes[:, None]] = -1
    return permute_captions(
        images, ratio=ratio, seed=seed, kind=kind, nearest=nearest, categories=np.arange(n) % 4
    )


def ring(n):
    """Captions on a circle: the nearest of each are those up to two steps away."""
    return (np.arange(n)[:, None] + [1, -1, 2, -2]) % n


@pytest.mark.parametrize("kind", get_args(NoiseKind))
@given(images=ids, ratio=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
@settings(derandomize=True, max_examples=100, deadline=None)
def test_every_caption_stays_in_the_data_and_no_more_than_the_share_moves(
    kind, images, ratio, seed
):
    result = permute(images, ratio=ratio, seed=seed, kind=kind)
    assert sorted(result) == list(range(len(images)))
    assert np.array_equal(result, permute(images, ratio=ratio, seed=seed, kind=kind))
    if kind != "block":
        assert (result != np.arange(len(images))).sum() <= round(ratio * len(images))


@given(images=ids, seed=st.integers(0, 2**32 - 1))
@settings(derandomize=True, max_examples=100, deadline=None)
def test_block_moves_all_captions_of_an_image_to_one_image(images, seed):
    images = np.array(images, dtype=np.int64)
    result = permute_captions(images, ratio=1, seed=seed, kind="block")
    for image in np.unique(images):
        sources = images[result[images == image]]
        assert len(set(sources)) == 1
        assert (images == image).sum() == (images == sources[0]).sum()


@pytest.mark.parametrize("kind", get_args(NoiseKind))
@pytest.mark.parametrize("ratio", [0, 0.2, 0.4, 0.8, 1])
def test_the_share_of_mismatched_pairs_is_the_ratio(kind, ratio):
    images = np.repeat(np.arange(1000), 5)
    captions = [str(i) for i in range(len(images))]
    result = permute(images, ratio=ratio, seed=3, kind=kind)
    wrong = mismatched(result, images, captions)
    assert np.array_equal(wrong, images[result] != images)  # the truth of NCR
    assert wrong.mean() == pytest.approx(ratio, abs=0.003)


def test_seeds_and_kinds_differ():
    first = permute_captions(range(100), ratio=1, seed=0, kind="random")
    assert not np.array_equal(first, permute_captions(range(100), ratio=1, seed=1, kind="random"))


@pytest.mark.parametrize("ratio", [0.2, 0.6])
def test_similar_swaps_those_that_are_near(ratio):
    nearest = ring(200)
    result = permute_captions(range(200), ratio=ratio, seed=0, kind="similar", nearest=nearest)
    moved = np.flatnonzero(result != np.arange(200))
    assert len(moved) == 200 * ratio
    assert np.array_equal(result[result], np.arange(200))
    assert all(result[i] in nearest[i] for i in moved)
    assert share_nearest(result, nearest) == 1


def test_similar_exchanges_at_random_what_has_nobody_near():
    nearest = ring(100)
    nearest[40:] = -1
    result = permute_captions(range(100), ratio=1, seed=0, kind="similar", nearest=nearest)
    assert (result != np.arange(100)).all()
    near = [i for i in range(100) if result[i] in nearest[i]]
    assert share_nearest(result, nearest) == len(near) / 100
    assert 0.25 <= share_nearest(result, nearest) <= 0.4
    assert share_nearest(np.arange(100), nearest) == 1  # nothing moved


def test_similar_prefers_pairs_that_are_near_each_other():
    # Each is near the next one, and two of them near each other.
    nearest = np.array([[1], [2], [3], [2]])
    for seed in range(20):
        result = permute_captions(range(4), ratio=0.5, seed=seed, kind="similar", nearest=nearest)
        assert result.tolist() == [0, 1, 3, 2]


def test_same_category_exchanges_within_a_category_only():
    images = np.repeat(np.arange(50), 4)
    categories = np.array(["cat", "dog", "cat", "alone", "dog"] + ["cat", "dog"] * 98)[:200]
    result = permute_captions(images, ratio=1, seed=0, kind="same-category", categories=categories)
    assert (categories[result] == categories).all()
    assert result[3] == 3
    assert (images[result] != images).sum() == 199


def test_a_caption_that_reads_as_before_is_no_mismatch():
    images = ["a", "a", "b", "b", "c"]
    captions = ["x", "y", "x", "z", "w"]
    # b gets x, which it had in its other pair; a gets z, c gets y; a's second pair gets x.
    caption_from = np.array([3, 2, 4, 0, 1])
    assert mismatched(caption_from, images, captions).tolist() == [True, False, True, False, True]


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_ratios_out_of_range_are_refused(ratio):
    with pytest.raises(UsageError, match="from 0 to 1"):
        permute_captions([1, 2], ratio=ratio, seed=0, kind="random")


def test_unknown_kinds_are_refused():
    with pytest.raises(UsageError, match="random or block or similar or same-category"):
        permute_captions([1, 2], ratio=0.5, seed=0, kind="other")


@given(classes=ids, seed=st.integers(0, 2**32 - 1))
@settings(derandomize=True, max_examples=300, deadline=None)
def test_exchange_moves_as_many_as_can_move_and_only_between_classes(classes, seed):
    classes = np.array(classes, dtype=np.int64)
    result = exchange(classes, np.random.default_rng(seed))
    assert sorted(result) == list(range(len(classes)))
    moved = result != np.arange(len(classes))
    assert (classes[result] != classes)[moved].all()
    largest = np.bincount(classes).max() if len(classes) else 0
    assert moved.sum() == min(len(classes), 2 * (len(classes) - largest))


def test_exchange_is_not_always_with_the_neighbour():
    shifts = {
        tuple(exchange(np.arange(6), np.random.default_rng(seed)).tolist()) for seed in range(50)
    }
    assert len(shifts) > 30


def test_classes_number_equal_values_alike():
    assert classes_of([b"x", b"y", b"x"]).tolist() == [0, 1, 0]
    assert classes_of(np.array([7, 7, 3])).tolist() == [0, 0, 1]
    assert classes_of([]).tolist() == []
