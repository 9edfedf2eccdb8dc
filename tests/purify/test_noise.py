"""The noise rate from frozen evidence, on populations whose rate is known."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from nccleaner.purify.noise import (
    NoiseRate,
    Passed,
    cross_score,
    estimate_noise_rate,
    highest_rate,
    solve_rate,
)


def population(rng, matched, mismatched):
    """Two kinds of evidence, both higher for matched pairs."""
    return np.concatenate([rng.normal(1.5, 1, (matched, 2)), rng.normal(0, 1, (mismatched, 2))])


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.4, 0.8])
def test_the_rate_is_found_and_its_draws_hold_it(rate):
    rng = np.random.default_rng(0)
    noisy = round(5000 * rate)
    scores = cross_score(
        population(rng, 5000 - noisy, noisy),
        population(rng, 400, 0),
        population(rng, 0, 1200),
        seed=0,
    )
    assert [len(part) for part in scores] == [5000, 400, 1200]
    found = estimate_noise_rate(scores)
    assert found.value == pytest.approx(rate, abs=0.05)
    low, high = np.quantile(found.draws(2000, rng), [0.01, 0.99])
    assert low - 1e-9 <= rate <= high


def test_evidence_that_tells_nothing_apart_gives_a_rate_in_range():
    noise = NoiseRate(passing=0.5, matched_passing=0.5, mismatched_passing=0.5, trusted=50)
    assert 0 <= noise.value <= 1
    assert np.isfinite(noise.draws(100, np.random.default_rng(0))).all()


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.3, 1.0])
@pytest.mark.parametrize(("matched", "mismatched"), [(0.9, 0.1), (0.6, 0.5), (1.0, 0.0)])
def test_the_rate_that_was_mixed_is_solved_for(rate, matched, mismatched):
    passing = (1 - rate) * matched + rate * mismatched
    assert solve_rate(passing, matched, mismatched) == pytest.approx(rate)
    drawn = solve_rate(passing, np.array([matched, passing]), np.array([mismatched, 0.0]))
    assert drawn == pytest.approx([rate, 0.0])


def test_shares_that_no_rate_explains_give_the_nearest():
    assert solve_rate(0.95, 0.9, 0.1) == 0
    assert solve_rate(0.05, 0.9, 0.1) == 1


def test_the_rate_exceeds_its_bound_no_more_often_than_said():
    rng = np.random.default_rng(0)
    rate, matched, mismatched, trusted = 0.3, 0.9, 0.15, 200
    passing = (1 - rate) * matched + rate * mismatched
    bounds = np.array(
        [
            NoiseRate(passing, good / trusted, bad / trusted, trusted).highest(miss=0.1)
            for good, bad in zip(
                rng.binomial(trusted, matched, 1000),
                rng.binomial(trusted, mismatched, 1000),
                strict=True,
            )
        ]
    )

    assert 0 < (bounds < rate).mean() < 0.1
    assert np.median(bounds) < rate + 0.1


def test_more_pairs_that_are_alike_bring_the_bound_to_the_estimate():
    noise = NoiseRate(passing=0.66, matched_passing=0.9, mismatched_passing=0.1, trusted=200)

    assert noise.highest(miss=0.05, times=1e6) == pytest.approx(noise.value, abs=1e-3)


@pytest.mark.parametrize("passing", [0.999, 0.05])
def test_labelled_pairs_that_no_mixture_of_is_like_the_others_bound_nothing(passing):
    good, bad = Passed(90, 100), Passed(20, 100)

    assert highest_rate(passing, good, bad, miss=0.05) == 1


def views(rng, *, rate=0.4, trusted=(450, 150), pool=5000):
    """The noise rate by two kinds of evidence, the second less often wrong; trusted pairs drawn."""
    made = []
    for (matched, mismatched), count in zip(((0.9, 0.12), (0.95, 0.08)), trusted, strict=True):
        passing = rng.binomial(pool, (1 - rate) * matched + rate * mismatched) / pool
        shares = (rng.binomial(count, share) / count for share in (matched, mismatched))
        made.append(NoiseRate(passing, *shares, count))
    return made


def test_two_kinds_of_evidence_are_nearer_than_either():
    rng = np.random.default_rng(0)
    drawn = [views(rng) for _ in range(400)]
    both = [replace(own, beside=other) for own, other in drawn]

    errors = [
        np.sqrt(np.mean([(noise.value - 0.4) ** 2 for noise in column]))
        for column in (both, *zip(*drawn, strict=True))
    ]

    assert errors[0] < 0.9 * min(errors[1:])


def test_intervals_of_both_hold_the_rate_as_often_as_said_or_more():
    rng = np.random.default_rng(1)
    held = []
    for _ in range(300):
        own, other = views(rng)
        low, high = np.quantile(replace(own, beside=other).draws(500, rng), [0.05, 0.95])
        held.append(low <= 0.4 <= high)

    assert np.mean(held) > 0.9


def test_evidence_that_tells_nothing_apart_does_not_count_beside_other():
    own, _ = views(np.random.default_rng(2))
    nothing = NoiseRate(passing=0.5, matched_passing=0.5, mismatched_passing=0.5, trusted=5000)

    assert replace(own, beside=nothing).value == pytest.approx(own.value, abs=1e-3)
    assert replace(nothing, beside=own).value == pytest.approx(own.value, abs=1e-3)


def test_a_bound_is_of_the_first_kind_of_evidence_alone():
    own, other = views(np.random.default_rng(3))

    assert replace(own, beside=other).highest(miss=0.05) == own.highest(miss=0.05)


def test_json_restores_both():
    own, other = views(np.random.default_rng(4))
    for noise in (None, own, replace(own, beside=other)):
        data = None if noise is None else json.loads(json.dumps(asdict(noise)))

        assert NoiseRate.from_json(data) == noise
