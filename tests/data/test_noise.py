from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nccleaner.data.noise import classes_of, exchange, mismatched, permute_captions
from nccleaner.errors import UsageError

ids = st.lists(st.integers(0, 8), max_size=60)


@pytest.mark.parametrize("kind", ["random", "block"])
@given(images=ids, ratio=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
@settings(derandomize=True, max_examples=100, deadline=None)
def test_every_caption_stays_in_the_data_and_no_more_than_the_share_moves(
    kind, images, ratio, seed
):
    result = permute_captions(images, ratio=ratio, seed=seed, kind=kind)
    assert sorted(result) == list(range(len(images)))
    assert np.array_equal(result, permute_captions(images, ratio=ratio, seed=seed, kind=kind))
    if kind == "random":
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


@pytest.mark.parametrize("kind", ["random", "block"])
@pytest.mark.parametrize("ratio", [0, 0.2, 0.4, 0.8, 1])
def test_the_share_of_mismatched_pairs_is_the_ratio(kind, ratio):
    images = np.repeat(np.arange(1000), 5)
    captions = [str(i) for i in range(len(images))]
    result = permute_captions(images, ratio=ratio, seed=3, kind=kind)
    wrong = mismatched(result, images, captions)
    assert np.array_equal(wrong, images[result] != images)  # the truth of NCR
    assert wrong.mean() == pytest.approx(ratio, abs=0.003)


def test_seeds_and_kinds_differ():
    first = permute_captions(range(100), ratio=1, seed=0, kind="random")
    assert not np.array_equal(first, permute_captions(range(100), ratio=1, seed=1, kind="random"))


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
    with pytest.raises(UsageError, match="random or block"):
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
