"""Pools whose mismatched pairs are not like exchanged ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.optimize import minimize

from nccleaner.purify.near_misses import NearMisses, View, find_near_misses
from nccleaner.purify.noise import cross_score, estimate_noise_rate
from nccleaner.purify.posterior import Posterior

PROBES, TRUSTED, POOL, RATE = 500, 1_500, 5_000, 0.4


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def make(kind, seed, *, probes=PROBES, trusted=TRUSTED, rate=RATE):
    """A pool as the judge sees it and as frozen evidence does, and its truth.

    Matched and exchanged pairs have logits of normal distributions whose ratio is the logit itself;
    near misses lie between them.
    """
    rng = np.random.default_rng(seed)
    truth = rng.random(POOL) > rate
    views = []
    for middle, count in ((2.5, probes), (1.0, trusted)):
        wrong = {"exchanged": -middle, "near": 0.1 * middle}[kind]
        deviation = np.sqrt(2 * middle)
        pool = rng.normal(np.where(truth, middle, wrong), deviation)
        labelled = rng.normal(middle, deviation, count), rng.normal(-middle, deviation, count)
        views.append(View(*(sigmoid(logits) for logits in (*labelled, pool))))
    return views, truth


def look(made, *, rate=0.15, seed=0):
    return find_near_misses(made[0], rate=rate, seed=seed)


def test_bayes_rule_stands_where_mismatched_pairs_are_like_exchanged_ones():
    contradicted = [
        look(make("exchanged", 1000 + seed), rate=RATE) is not None for seed in range(40)
    ]
    assert sum(contradicted) <= 2  # about one in 100 by chance


def test_near_misses_are_found_and_probabilities_then_say_more_nearly_what_is():
    for seed in range(5):
        views, truth = made = make("near", seed)
        found = look(made)

        assert 0.2 <= found.posterior.slope < 1
        assert found.rate == pytest.approx(RATE, abs=0.15)
        clean = found.posterior(views[0].pool)
        assert 1 - clean.mean() == pytest.approx(found.rate, abs=0.01)
        by_bayes = Posterior.by_bayes(0.15)(views[0].pool)
        assert calibration_error(clean, truth) < calibration_error(by_bayes, truth) / 2


def calibration_error(probability, truth):
    """Mean distance between what is said and what is, in ten bins of equal count."""
    bins = np.array_split(np.argsort(probability), 10)
    return np.mean([abs(probability[rows].mean() - truth[rows].mean()) for rows in bins])


def test_the_rates_are_spread_about_the_rate_and_mostly_hold_the_truth():
    held = 0
    for seed in range(6):
        found = look(make("near", seed))
        low, high = np.quantile(found.rates, [0.025, 0.975])
        assert low < found.rate < high
        held += low <= RATE <= high
    assert held >= 4


def test_what_is_found_is_the_likeliest_of_posteriors_with_rates_alike_and_off_0_and_1():
    views, _ = make("near", 0)
    logits = [[np.log(scores / (1 - scores)) for scores in view] for view in views]

    def loss(parameters):
        total, odds = 0.0, []
        for (intercept, slope), (matched, _, pool) in zip(
            parameters.reshape(2, 2), logits, strict=True
        ):
            rate = 1 - sigmoid(intercept + slope * pool).mean()
            total -= np.log(sigmoid(intercept + slope * matched) / (1 - rate)).sum()
            odds.append(np.log(rate / (1 - rate)))
        middle = sigmoid(np.mean(odds))
        return total + (odds[0] - odds[1]) ** 2 / 2 - np.log(middle * (1 - middle))

    expected = minimize(loss, [0.0, 0.5, 0.0, 0.5], bounds=[(-15, 15), (0.2, 1)] * 2).x
    found = look((views, None)).posterior

    assert found.slope == pytest.approx(expected[1], abs=0.02)
    assert found.intercept == pytest.approx(expected[0], abs=0.05)


def test_the_judge_alone_can_find_them():
    views, _ = make("near", 0)
    assert look((views[:1], None)).rate == pytest.approx(RATE, abs=0.15)


def test_a_pool_with_fewer_mismatched_pairs_than_thought_has_no_near_misses():
    assert look(make("exchanged", 0, rate=0.05), rate=0.4) is None


def test_few_matched_probes_say_nothing():
    assert look(make("near", 0, probes=39)) is None


def test_equal_seeds_draw_equal_rates_and_json_restores_them():
    made = make("near", 1)
    found, again, other = (look(made, seed=seed) for seed in (0, 0, 1))
    restored = NearMisses.from_json(json.loads(json.dumps(found.to_json())))

    for same in (again, restored):
        assert (same.posterior, same.rate) == (found.posterior, found.rate)
        np.testing.assert_array_equal(same.rates, found.rates)
    assert not np.array_equal(other.rates, found.rates)
    assert NearMisses.from_json(None) is None


def test_scores_at_the_ends_are_finite():
    views, _ = made = make("near", 2)
    matched, _, pool = views[0]
    matched[:3], pool[:100], pool[100:200] = 1.0, 0.0, 1.0

    found = look(made)

    assert np.isfinite(found.rates).all()
    assert 1 - found.posterior(pool).mean() == pytest.approx(found.rate, abs=0.01)


def test_heads_that_are_wrong_about_their_evidence_do_not_make_near_misses():
    """With heavy tails a head is too sure of the extremes; thousands of labelled pairs show it."""
    contradicted = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)

        def evidence(matched, rng=rng):
            return rng.standard_t(3, size=(len(matched), 4)) + np.where(matched, 0.5, -0.5)[:, None]

        truth, trusted = rng.random(POOL) > RATE, np.ones(3000, dtype=bool)
        parts = [evidence(some) for some in (truth, trusted, ~trusted)]
        scores = cross_score(*parts, seed=seed)
        view = View(scores.matched, scores.mismatched, scores.pool)

        rate = estimate_noise_rate(scores).value
        contradicted += find_near_misses([view], rate=rate, seed=0) is not None
    assert contradicted <= 1  # by chance


def test_small_pools_say_nothing():
    views, _ = make("near", 0)
    for pairs, said in ((999, False), (1_000, True)):
        small = [view._replace(pool=view.pool[:pairs]) for view in views]
        assert (look((small, None)) is not None) == said


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_pool_of_one_kind_alone_has_no_near_misses(rate):
    for seed in range(3):
        assert look(make("exchanged", seed, rate=rate), rate=rate) is None
