from __future__ import annotations

import numpy as np
import pytest

from nccleaner.purify.decide import (
    Decision,
    FractionFinder,
    Standing,
    meta_prior_decision,
    price,
)
from nccleaner.purify.judge import fit_judge
from nccleaner.purify.mixture import histogram
from nccleaner.purify.noise import NoiseRate

CUT_OFF = Decision("corrected_similarity", 0.55, "threshold")


# Decisions


def test_a_threshold_keeps_what_reaches_it():
    scores = np.array([0.3, 0.2999999, 0.3000001], np.float32)

    assert Decision("similarity", 0.3, "threshold").keeps(scores).tolist() == [True, False, True]


def test_the_meta_prior_keeps_more_than_one_half():
    half = np.float32(0.5)
    scores = [half, np.nextafter(half, np.float32(1)), np.nextafter(half, np.float32(0))]

    assert meta_prior_decision().keeps(scores).tolist() == [False, True, False]


# Fractions


@pytest.mark.parametrize("column", ["similarity", "corrected_similarity"])
@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.999, 1.0])
def test_a_fraction_is_the_quantile_of_all_scores(column, fraction):
    rng = np.random.default_rng(0)
    scores = rng.beta(2, 3, 10_000).astype(np.float32)
    if column == "similarity":
        scores = scores * 2 - 1
    finder = FractionFinder(column)
    for portion in np.array_split(scores, 7):
        finder.add(portion)

    decision = finder.decision(fraction)

    assert abs(decision.keeps(scores).sum() - fraction * len(scores)) <= 1
    by_quantile = scores >= np.quantile(scores, 1 - fraction, method="higher")
    assert (decision.keeps(scores) != by_quantile).sum() <= 1
    assert (decision.column, decision.rule) == (column, "keep_fraction")


def test_equal_scores_are_kept_or_dropped_together():
    finder = FractionFinder("clean_probability")
    scores = np.repeat(np.float32([0.0, 0.25, 1.0]), [10, 30, 60])
    finder.add(scores)

    assert finder.decision(0.61).keeps(scores).sum() == 60
    assert finder.decision(0.89).keeps(scores).sum() == 90
    assert finder.decision(1.0).keeps(scores).sum() == 100


@pytest.mark.parametrize(("column", "low"), [("similarity", -1.0), ("clean_probability", 0.0)])
def test_the_ends_of_the_range_are_scores_too(column, low):
    finder = FractionFinder(column)
    scores = np.float32([low, 1.0])
    finder.add(scores)

    assert finder.decision(0.5).keeps(scores).tolist() == [False, True]
    assert finder.decision(1.0).keeps(scores).tolist() == [True, True]


# Prices


def one_evidence(matched, rng):
    """Logits of scores whose two densities have the ratio s : 1 - s; the head leaves them so."""
    scores = rng.beta(0.8 + matched, 1.8 - matched)
    return np.log(scores / (1 - scores))[:, None]


def normal_evidence(matched, rng):
    """Two normal distributions."""
    return rng.normal(size=(len(matched), 1)) + np.where(matched, 1.3, -1.3)[:, None]


def standing_of(rate, *, seed, count=2000, labelled=120, one_evidence=one_evidence, noise=None):
    """A pool, its judge, and the truth: what price should say of `CUT_OFF`."""
    rng = np.random.default_rng(seed)
    truth = rng.random(count) > rate
    pool = one_evidence(truth, rng)
    matched = np.arange(labelled) % 2 == 0
    evidence = one_evidence(matched, rng)
    judge = fit_judge(
        [evidence],
        np.zeros(labelled, np.float32),
        matched,
        pool_evidence=[pool],
        seed=seed,
        noise=noise,
    )
    scores = judge.corrected_similarity([pool])
    kept = CUT_OFF.keeps(scores)
    facts = ((~truth).mean(), (~truth)[kept].mean(), (~kept)[truth].mean())
    return Standing(judge, histogram(scores), count), facts


@pytest.fixture(scope="module")
def standing():
    return standing_of(0.3, seed=100, labelled=600)


def test_a_price_is_near_the_truth_and_inside_its_interval(standing):
    cost = price(CUT_OFF, [standing[0]], seed=0)

    for interval, fact in zip(cost, standing[1], strict=True):
        assert interval is not None
        assert interval.low <= interval.value <= interval.high
        assert interval.value == pytest.approx(fact, abs=0.08)
    assert price(CUT_OFF, [standing[0]], seed=0) == cost


@pytest.mark.parametrize("evidence", [one_evidence, normal_evidence])
def test_intervals_cover_the_truth_about_as_often_as_they_say(evidence):
    count = 100
    covered = np.zeros(3)
    for seed in range(count):
        rate = 0.1 + 0.5 * seed / count
        standing, facts = standing_of(rate, seed=seed, one_evidence=evidence)
        for part, interval in enumerate(price(CUT_OFF, [standing], seed=seed)):
            assert interval is not None
            covered[part] += interval.low <= facts[part] <= interval.high

    # Measured are 92 to 97 % of 200; fewer than 85 of 100 would be rare.
    assert (covered >= 85).all(), covered / count


def test_a_noise_rate_that_is_known_is_what_the_price_rests_on():
    known = NoiseRate(passing=0.7, matched_passing=0.9, mismatched_passing=0.1, trusted=400)
    standing, _ = standing_of(0.5, seed=3, noise=known)

    cost = price(CUT_OFF, [standing], seed=0)

    assert cost.before.value == pytest.approx(known.value)
    by_draws = np.quantile(known.draws(20_000, np.random.default_rng(1)), [0.025, 0.975])
    assert (cost.before.low, cost.before.high) == pytest.approx(tuple(by_draws), abs=0.01)


def test_keeping_everything_loses_nothing(standing):
    everything = Decision("corrected_similarity", 0.0, "threshold")

    cost = price(everything, [standing[0]], seed=0)

    assert cost.after is not None
    assert cost.lost.value < 0.01
    assert cost.after.value == pytest.approx(cost.before.value, abs=0.01)


def test_keeping_nothing_loses_everything(standing):
    nothing = Decision("corrected_similarity", 1.0, "threshold")

    cost = price(nothing, [standing[0]], seed=0)

    assert cost.lost.value > 0.99


def test_standings_add_up_by_their_pairs(standing):
    clean, _ = standing_of(0.05, seed=7, count=6000)
    alone = price(CUT_OFF, [standing[0]], seed=0), price(CUT_OFF, [clean], seed=0)

    both = price(CUT_OFF, [standing[0], clean], seed=0)

    mean = (2000 * alone[0].before.value + 6000 * alone[1].before.value) / 8000
    assert both.before.value == pytest.approx(mean)
    empty = Standing(clean.judge, np.zeros_like(clean.scores), 0)
    assert price(CUT_OFF, [standing[0], empty], seed=0) == alone[0]
