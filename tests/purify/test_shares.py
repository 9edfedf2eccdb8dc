"""Exact bounds against their definition, and against another library's intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from nccleaner.purify.shares import LEVEL, Interval, exact_interval, highest_share


@pytest.mark.parametrize(("count", "trials"), [(0, 1), (0, 40), (3, 40), (39, 40), (40, 40)])
def test_intervals_are_those_of_scipy(count, trials):
    other = binomtest(count, trials).proportion_ci(LEVEL, method="exact")

    assert exact_interval(count, trials) == pytest.approx((count / trials, other.low, other.high))


@pytest.mark.parametrize("miss", [0.05, 0.001])
def test_the_truth_is_above_the_highest_share_no_more_often_than_said(miss):
    trials = 30
    bounds = highest_share(np.arange(trials + 1), trials, miss=miss)

    for truth in np.linspace(0.005, 0.995, 199):
        missed = binom.pmf(np.arange(trials + 1), trials, truth)[bounds < truth].sum()
        assert missed <= miss + 1e-12
    # It could not be lower: at the bound itself so few are seen with exactly that probability.
    assert binom.cdf(4, trials, bounds[4]) == pytest.approx(miss)


def test_without_trials_nothing_is_known():
    assert highest_share([0, 0], [0, 10], miss=0.05).tolist() == [
        1,
        pytest.approx(0.2589, abs=1e-4),
    ]


def test_the_share_of_the_others_has_the_other_ends():
    assert Interval(0.25, 0.125, 0.5).complement() == (0.75, 0.5, 0.875)
