from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from nccleaner.purify.mixture import fit_mixture
from nccleaner.purify.rounds import first_belief, next_belief, trusted_belief

FIT = partial(fit_mixture, prior="anchor", max_iterations=10, tolerance=1e-3)
RATE, COUNT = 0.4, 5000


@pytest.fixture(scope="module")
def truth():
    """[n] bool, which pairs of the pool are matched."""
    return np.random.default_rng(0).random(COUNT) > RATE


def evidence(matched, seed, apart=1.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(len(matched), 3)) + apart * np.where(matched, 1, -1)[:, None]


def network_scores(matched, seed=9):
    """Sharper than the frozen evidence, and of its own noise; too high, as on what it learned."""
    rng = np.random.default_rng(seed)
    return np.where(matched, rng.beta(9, 1.2, len(matched)), rng.beta(3, 2.5, len(matched))).astype(
        np.float32
    )


@pytest.fixture(scope="module")
def first(truth):
    labelled = np.arange(200) < 100
    trusted = evidence(labelled, 2, apart=0.6)
    return first_belief(
        evidence(truth, 1, apart=0.6), trusted[labelled], trusted[~labelled], fit=FIT
    )


def test_the_first_belief_finds_the_noise_rate(first, truth):
    assert first.mixture.noise_rate == pytest.approx(RATE, abs=0.05)
    assert (1 - first.clean_probability).mean() == pytest.approx(RATE, abs=0.05)
    assert roc_auc_score(truth, first.clean_probability) > 0.9


def test_the_next_belief_is_better_than_either_source(first, truth):
    scores = network_scores(truth)

    belief = next_belief(first.clean_probability, scores)

    assert belief.dtype == np.float32
    assert ((belief >= 0) & (belief <= 1)).all()
    both = roc_auc_score(truth, belief)
    assert both > roc_auc_score(truth, first.clean_probability)
    assert both > roc_auc_score(truth, scores)
    assert (1 - belief).mean() == pytest.approx(RATE, abs=0.05)


@pytest.mark.parametrize("scores", ["reversed", "constant"])
def test_a_network_that_knows_nothing_changes_nothing_for_the_worse(first, truth, scores):
    taught = {
        "reversed": 1 - network_scores(truth),
        "constant": np.full(COUNT, 0.5, dtype=np.float32),
    }[scores]

    belief = next_belief(first.clean_probability, taught)

    assert np.isfinite(belief).all()
    before = roc_auc_score(truth, first.clean_probability)
    assert roc_auc_score(truth, belief) > before - 0.01


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_belief_that_is_certain_of_everything_gives_finite_numbers(truth, value):
    certain = np.full(COUNT, value, dtype=np.float32)

    belief = next_belief(certain, network_scores(truth))

    assert np.isfinite(belief).all()
    assert ((belief >= 0) & (belief <= 1)).all()


def test_the_trusted_belief_is_the_mixture_of_the_paper(truth):
    labelled = np.arange(200) < 100
    trusted = network_scores(labelled, seed=5)

    belief = trusted_belief(network_scores(truth), trusted[labelled], trusted[~labelled], fit=FIT)

    assert (1 - belief).mean() == pytest.approx(RATE, abs=0.05)
    assert roc_auc_score(truth, belief) > 0.9
