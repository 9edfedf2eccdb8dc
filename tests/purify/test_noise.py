"""The noise rate from frozen evidence, on populations whose rate is known."""

from __future__ import annotations

import numpy as np
import pytest

from nccleaner.purify.noise import NoiseRate, estimate_noise_rate, solve_rate


def population(rng, matched, mismatched):
    """Two kinds of evidence, both higher for matched pairs."""
    return np.concatenate([rng.normal(1.5, 1, (matched, 2)), rng.normal(0, 1, (mismatched, 2))])


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.4, 0.8])
def test_the_rate_is_found_and_its_draws_hold_it(rate):
    rng = np.random.default_rng(0)
    noisy = round(5000 * rate)
    found = estimate_noise_rate(
        population(rng, 5000 - noisy, noisy),
        population(rng, 400, 0),
        population(rng, 0, 1200),
        seed=0,
    )
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
