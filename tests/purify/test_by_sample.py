"""What cut-offs cost by a labelled random sample."""

from __future__ import annotations

import numpy as np
import pytest

from nccleaner.purify.by_sample import BySample
from nccleaner.purify.decide import Cuts, Grid, Known
from nccleaner.purify.shares import exact_interval, highest_share

# 60 matched and 40 mismatched pairs; at 0.5 or above are 54 and 6.
SCORES = np.float32([0.8] * 54 + [0.2] * 6 + [0.7] * 6 + [0.1] * 34)
MATCHED = np.arange(100) < 60
ITSELF = Known(60, 40)
CUTS = Cuts(np.array([0.9, 0.5]), np.array([[10, 500], [0, 100]]))


def by(known):
    return BySample(SCORES, MATCHED, pairs=1000, known=known)


def test_prices_are_shares_of_the_sample_with_exact_intervals():
    unknown, cost = by(Known(0, 0)).prices(CUTS)

    assert cost.before == pytest.approx(exact_interval(40, 100))
    assert cost.after == pytest.approx(exact_interval(6, 60))
    assert cost.recall == pytest.approx(exact_interval(54, 60))
    assert unknown.after is None, "no pair of the sample says what reaches 0.9"
    assert unknown.recall.value == 0


def test_labelled_pairs_are_counted_as_what_they_are():
    cost = by(ITSELF).prices(CUTS)[1]

    assert cost.before.value == pytest.approx((0.4 * 1000 + 40) / 1100)
    assert cost.after.high == pytest.approx(600 * exact_interval(6, 60).high / 660)
    assert cost.recall.value == pytest.approx((0.9 * 600 + 60) / 660)


def test_where_only_labelled_pairs_are_kept_none_is_mismatched():
    cuts = Cuts(np.array([0.9]), np.array([[0], [0]]))

    assert by(ITSELF).prices(cuts)[0].after == (0, 0, 0)
    assert by(Known(0, 40)).prices(cuts)[0].after is None


def test_a_sample_of_mismatched_pairs_says_nothing_of_matched_ones():
    cost = BySample(SCORES[60:], MATCHED[60:], pairs=1000, known=Known(0, 40)).prices(CUTS)[1]

    assert cost.recall is None
    assert cost.before.value == 1


def test_a_bound_is_the_exact_one_of_what_the_sample_keeps():
    sample = by(ITSELF)

    assert sample.mismatched(CUTS).tolist() == [[0, 6]]
    assert sample.bounds(CUTS, sample.mismatched(CUTS)) == pytest.approx(
        [0, 1 - highest_share(6, 60, miss=0.05)]
    )


def test_the_finite_shards_are_covered_as_often_as_said():
    rng = np.random.default_rng(0)
    missed = 0
    truth = rng.random(1500) > 0.3
    scores = np.where(truth, rng.beta(5, 2, 1500), rng.beta(2, 5, 1500)).astype(np.float32)
    for _ in range(300):
        drawn = np.zeros(1500, dtype=bool)
        drawn[rng.choice(1500, 200, replace=False)] = True
        kept = ~drawn & (scores >= 0.5)
        cuts = Cuts(np.array([0.5]), np.array([[kept.sum()]]))
        sample = BySample(scores[drawn], truth[drawn], pairs=1300, known=Known(0, 0))
        missed += truth[kept].mean() < sample.bounds(cuts, sample.mismatched(cuts))[0]

    assert missed <= 300 * 0.05 + 3 * np.sqrt(300 * 0.05 * 0.95)
    assert missed > 0, "a bound that never misses says too little"


def test_the_sample_is_expected_to_be_like_what_is_believed_of_all():
    expected = by(ITSELF).expected(Grid(CUTS, np.array([[1, 20], [1, 10]])))

    assert expected == pytest.approx(np.array([[0, 60 * 30 / 600]]))
