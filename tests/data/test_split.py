from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nccleaner.data.noise import permute_captions
from nccleaner.data.split import exchange_some, split_trusted
from nccleaner.errors import TrustedError, UsageError

SHARES = (0.5, 0.3, 0.2)
texts = st.sampled_from(["a", "a ", "b", " b", "c", "d", "e", "f", "g", "h"])
pool = st.lists(st.tuples(texts, st.integers(0, 40)), max_size=80)


def parts_of(split):
    return [split.meta, split.probe, split.held_out]


@given(
    pairs=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 30)), min_size=40, max_size=80),
    seed=st.integers(0, 2**32 - 1),
)
@settings(derandomize=True, max_examples=100, deadline=None)
def test_every_pair_is_in_one_part_and_so_is_every_image(pairs, seed):
    labels, groups = (np.array(column) for column in zip(*pairs, strict=True))
    assume(len(set(groups)) >= 10)
    parts = parts_of(split_trusted(labels, groups=groups, seed=seed, shares=SHARES))
    assert sorted(np.concatenate(parts)) == list(range(len(pairs)))
    images = [set(groups[part]) for part in parts]
    assert sum(map(len, images)) == len(set(groups))
    again = split_trusted(labels, groups=groups, seed=seed, shares=SHARES)
    assert all(np.array_equal(a, b) for a, b in zip(parts, parts_of(again), strict=True))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n_mismatched", [0, 3, 10, 37])
def test_each_part_gets_its_share_of_each_label(seed, n_mismatched):
    labels = np.ones(150, dtype=int)
    labels[:n_mismatched] = 0
    split = split_trusted(labels, groups=range(150), seed=seed, shares=SHARES)
    for share, part in zip(SHARES, parts_of(split), strict=True):
        assert abs((labels[part] == 0).sum() - share * n_mismatched) < 1
        assert abs((labels[part] == 1).sum() - share * (150 - n_mismatched)) < 1


def test_large_groups_are_evened_out():
    groups = np.repeat(np.arange(60), np.arange(60) % 5 + 1)
    split = split_trusted(np.ones(len(groups)), groups=groups, seed=0, shares=SHARES)
    for share, part in zip(SHARES, parts_of(split), strict=True):
        assert abs(len(part) - share * len(groups)) <= 1


def test_seeds_differ():
    splits = [split_trusted(np.ones(50), groups=range(50), seed=s, shares=SHARES) for s in (0, 1)]
    assert not np.array_equal(splits[0].meta, splits[1].meta)


def test_a_part_may_be_left_out_but_not_be_left_empty():
    split = split_trusted(np.ones(10), groups=range(10), seed=0, shares=(0.5, 0, 0.5))
    assert [len(part) for part in parts_of(split)] == [5, 0, 5]
    with pytest.raises(TrustedError, match="30 trusted pairs of 2 images"):
        split_trusted(np.ones(30), groups=[0, 1] * 15, seed=0, shares=SHARES)
    with pytest.raises(TrustedError, match="0 trusted pairs"):
        split_trusted([], groups=[], seed=0, shares=SHARES)


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.5), (1.5, -0.5, 0)])
def test_shares_must_add_up(shares):
    with pytest.raises(UsageError, match="add up to 1"):
        split_trusted(np.ones(30), groups=range(30), seed=0, shares=shares)


@given(pairs=pool, share=st.floats(0, 0.5), seed=st.integers(0, 2**32 - 1))
@settings(derandomize=True, max_examples=300, deadline=None)
def test_exchanged_pairs_get_captions_of_other_images_that_read_otherwise(pairs, share, seed):
    captions, groups = [caption for caption, _ in pairs], [group for _, group in pairs]

    free = len(pairs) * 3 // 4
    made = exchange_some(captions, groups=groups, pool=free, share=share, seed=seed)

    assert sorted(made.caption_from) == made.pairs.tolist() == sorted(set(made.pairs))
    assert all(pair < free for pair in made.pairs)
    for pair, owner in zip(*made, strict=True):
        assert groups[owner] != groups[pair]
        of_image = {c.strip() for c, g in zip(captions, groups, strict=True) if g == groups[pair]}
        assert captions[owner].strip() not in of_image


@pytest.mark.parametrize(
    ("size", "share", "exchanged"),
    [
        (0, 0.05, 0),
        (1, 0.05, 0),  # one alone has nothing to exchange
        (7, 0.05, 7),
        (100, 0.05, 10),
        (400, 0.05, 20),
        (400, 0.3, 120),
        (50_000, 0.05, 1_000),
    ],
)
def test_a_share_of_the_pool_is_exchanged_within_bounds(size, share, exchanged):
    captions = [f"caption {i}" for i in range(size)]
    made = exchange_some(captions, groups=range(size), pool=size, share=share, seed=0)
    assert len(made.pairs) == exchanged


def test_the_seed_draws_the_pairs_that_are_exchanged():
    captions = [f"caption {i}" for i in range(400)]
    one, same, other = (
        exchange_some(captions, groups=range(400), pool=400, share=0.1, seed=seed)
        for seed in (0, 0, 1)
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one.pairs, other.pairs)
    assert one.pairs.min() < 100
    assert one.pairs.max() > 300


def test_captions_that_all_read_the_same_are_not_exchanged():
    made = exchange_some(["clip art"] * 400, groups=range(400), pool=400, share=0.1, seed=0)
    assert not len(made.pairs)


def test_where_hardly_a_caption_differs_more_are_drawn():
    captions = ["clip art"] * 180 + [f"caption {i}" for i in range(20)]
    for seed in range(20):
        made = exchange_some(captions, groups=range(200), pool=200, share=0.05, seed=seed)
        assert len(made.pairs) >= 10


@pytest.mark.parametrize("kind", ["random", "similar"])
def test_exchanged_pairs_are_not_those_that_noise_of_the_same_seed_drew(kind):
    size, nearest = 5400, (np.arange(5400)[:, None] + np.arange(1, 11)) % 5400
    captions = [f"caption {i}" for i in range(size)]
    for seed in range(3):
        noise = permute_captions(range(size), ratio=0.4, seed=seed, kind=kind, nearest=nearest)
        made = exchange_some(captions, groups=range(size), pool=size, share=0.05, seed=seed)
        already = (noise != np.arange(size))[made.pairs].mean()
        assert 0.3 < already < 0.5
