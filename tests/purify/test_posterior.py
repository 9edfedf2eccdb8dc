"""Clean probabilities of corrected similarities."""

from __future__ import annotations

import numpy as np
import pytest

from nccleaner.purify.posterior import Posterior


@pytest.mark.parametrize("slope", [1.0, 0.4])
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_a_clean_probability_is_one_of_a_corrected_similarity(rate, slope):
    posterior = Posterior(Posterior.by_bayes(rate).intercept, slope)
    corrected = np.linspace(0.05, 0.95, 19)

    again = [posterior.corrected_at(float(clean)) for clean in posterior(corrected)]

    np.testing.assert_allclose(again, corrected, atol=1e-3)


def test_the_surest_scores_have_the_surest_probabilities():
    for slope in (1.0, 0.3):
        assert Posterior(-0.4, slope)([0.0, 1.0]).tolist() == [0.0, 1.0]


def test_a_slope_of_1_is_bayes_rule_and_a_lower_one_a_multiple_of_the_logit():
    corrected = np.array([0.1, 0.5, 0.8])
    odds = corrected / (1 - corrected)
    bayes = Posterior.by_bayes(0.25)
    for posterior in (bayes, Posterior(bayes.intercept, 0.5)):
        expected = 3 * odds**posterior.slope
        np.testing.assert_allclose(posterior(corrected), expected / (1 + expected), rtol=1e-6)
