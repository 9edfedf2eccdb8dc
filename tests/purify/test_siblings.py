from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import rows
from sklearn.metrics import roc_auc_score

from nccleaner.purify import siblings as module
from nccleaner.purify.siblings import Siblings
from nccleaner.purify.standardise import Standardiser

TEXTS = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
STANDARDISE = Standardiser.fit(TEXTS)


def drawn(count=150, images=30, seed=0):
    """Pairs of which some repeat, and how much each is believed; some not at all."""
    rng = np.random.default_rng(seed)
    pairs = rows(rng.integers(images, size=count) * 3 + 7, rng.integers(len(TEXTS), size=count))
    belief = np.where(rng.random(count) < 0.2, 0, rng.random(count))
    return pairs, belief


def among(pairs, texts=TEXTS):
    return Siblings.among(pairs, texts, STANDARDISE)


def by_brute_force(pairs, belief):
    """Looks at all pairs of pairs, in float64."""
    images, captions = pairs.image_rows.tolist(), pairs.text_rows.tolist()
    texts = (TEXTS.double() - STANDARDISE.mean) / STANDARDISE.scale
    cosines = torch.nn.functional.cosine_similarity(texts[:, None], texts[None], dim=2).numpy()
    total, toward = np.zeros(len(images)), np.zeros(len(images))
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        others: dict[int, float] = {}
        for j in range(len(images)):
            if images[j] == image and captions[j] != caption:
                others[captions[j]] = max(others.get(captions[j], 0.0), belief[j])
        total[i] = sum(others.values())
        toward[i] = sum(weight * cosines[caption, other] for other, weight in others.items())
    common = (belief @ toward) / (belief @ total)
    agreement = (toward - common / 2 * total) / (0.5 + total)
    return np.where(total > 0, agreement, np.nan)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("images", [5, 30, 120])
def test_it_is_what_a_look_at_all_pairs_gives(seed, images):
    pairs, belief = drawn(images=images, seed=seed)

    agreement = among(pairs).agreement(belief)

    expected = by_brute_force(pairs, belief)
    assert agreement.dtype == np.float32
    if images > 5:
        assert 0 < np.isnan(expected).sum() < len(expected)
    np.testing.assert_allclose(agreement, expected, atol=1e-6)


def test_a_pair_that_repeats_is_no_sibling_of_itself():
    pairs = rows([3, 3, 3, 5, 5, 5], [1, 1, 1, 1, 2, 2])

    agreement = among(pairs).agreement(np.ones(6))

    assert np.isnan(agreement[:3]).all()
    assert agreement[4] == agreement[5]
    once = among(rows([5, 5], [1, 2])).agreement(np.ones(2))
    # What is common to all siblings is the mean over pairs, copies too; here it is all one cosine.
    np.testing.assert_allclose(agreement[3:5], once, atol=1e-6)


def test_a_pair_that_is_not_believed_vouches_for_none():
    pairs, belief = drawn()
    silent = belief == 0
    without = among(pairs.take(torch.from_numpy(np.flatnonzero(~silent))))

    agreement = among(pairs).agreement(belief)

    assert silent.any()
    np.testing.assert_allclose(agreement[~silent], without.agreement(belief[~silent]), atol=1e-6)
    assert not np.isnan(agreement[silent]).all()  # but it is compared with the others


def test_where_nothing_is_believed_nothing_is_said():
    pairs, belief = drawn()

    assert np.isnan(among(pairs).agreement(np.zeros_like(belief))).all()
    assert len(among(pairs.take(torch.arange(0))).agreement([])) == 0


def test_little_belief_says_little():
    pairs, belief = drawn()
    siblings = among(pairs)
    sure, doubtful = (siblings.agreement(share * (belief > 0)) for share in (1.0, 0.001))

    have = ~np.isnan(sure)
    assert (np.abs(doubtful[have]) < np.abs(sure[have]) / 20).all()


@pytest.mark.parametrize("size", [1, 7, 150])
def test_it_does_not_depend_on_portions(monkeypatch, size):
    pairs, belief = drawn()
    at_once = among(pairs).agreement(belief)
    monkeypatch.setattr(module, "_BLOCK_PAIRS", size)

    np.testing.assert_allclose(among(pairs).agreement(belief), at_once, atol=1e-6)


def test_it_does_not_depend_on_the_order_of_pairs():
    pairs, belief = drawn()
    order = np.random.default_rng(1).permutation(len(belief))

    moved = among(pairs.take(torch.from_numpy(order))).agreement(belief[order])

    np.testing.assert_allclose(moved, among(pairs).agreement(belief)[order], atol=1e-6)


def test_captions_of_half_the_precision_do():
    pairs, belief = drawn()

    halved = among(pairs, TEXTS.half()).agreement(belief)

    np.testing.assert_allclose(halved, among(pairs).agreement(belief), atol=2e-3)


def test_exchanged_captions_agree_less_and_least_if_they_vouch_for_none():
    generator = torch.Generator().manual_seed(1)
    own = torch.randn(100, 12, generator=generator).repeat_interleave(5, dim=0)
    texts = own + 0.7 * torch.randn(500, 12, generator=generator)
    captions = np.arange(500)
    moved = np.random.default_rng(0).permutation(500)[:200]
    captions[moved] = np.roll(captions[moved], 1)
    matched = captions // 5 == np.arange(500) // 5
    siblings = Siblings.among(rows(np.arange(500) // 5, captions), texts, Standardiser.fit(texts))

    by_all, by_matched = (
        siblings.agreement(belief) for belief in (np.ones(500), np.where(matched, 1.0, 0.1))
    )

    assert roc_auc_score(matched, by_all) > 0.9
    assert roc_auc_score(matched, by_matched) > roc_auc_score(matched, by_all) + 0.02


@pytest.mark.parametrize(
    ("images", "captions", "expected"),
    [
        ([1, 2, 3], [1, 2, 3], False),
        ([1, 2, 3], [5, 5, 5], False),
        ([1, 1, 2], [4, 4, 4], False),
        ([1, 2, 1], [4, 4, 5], True),
        ([], [], False),
    ],
)
def test_siblings_are_two_captions_of_one_image(images, captions, expected):
    pairs = rows(torch.tensor(images, dtype=torch.int64), torch.tensor(captions, dtype=torch.int64))

    assert among(pairs).exist() == expected
