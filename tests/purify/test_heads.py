from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from nccleaner.purify.heads import EvidenceHead

WEIGHTS = np.array([1.5, 0.5, 0.8])


def labelled(count, seed=0, bias=0.0):
    rng = np.random.default_rng(seed)
    evidence = rng.normal(size=(count, 3)) * [0.1, 1.0, 5.0] + [0.3, 0.0, -2.0]
    standard = (evidence - [0.3, 0.0, -2.0]) / [0.1, 1.0, 5.0]
    return evidence, rng.random(count) < 1 / (1 + np.exp(-standard @ WEIGHTS - bias))


def fit(evidence, matched):
    return EvidenceHead.fit(
        evidence, matched, mean=np.array([0.3, 0.0, -2.0]), scale=np.array([0.1, 1.0, 5.0])
    )


def test_it_recovers_the_weights_of_simulated_evidence():
    head = fit(*labelled(40_000))

    np.testing.assert_allclose(head.weights, WEIGHTS, atol=0.08)
    assert head.bias == pytest.approx(0, abs=0.05)


def test_it_agrees_with_scikit_learn_where_there_are_many_pairs():
    evidence, matched = labelled(20_000, bias=-1.5)  # few matched: both labels weigh the same
    head = fit(evidence, matched)
    other = LogisticRegression(C=1e9, class_weight="balanced", tol=1e-8)
    other.fit((evidence - head.mean) / head.scale, matched)

    np.testing.assert_allclose(head.weights, other.coef_[0], atol=5e-3)
    assert head.bias == pytest.approx(other.intercept_[0], abs=5e-3)


@pytest.mark.parametrize("count", [6, 40, 2000])
def test_weights_are_never_negative(count):
    evidence, matched = labelled(count, seed=1)
    matched[:2] = (True, False)
    evidence[:, 1] = -evidence[:, 1]  # speaks against a match here

    head = fit(evidence, matched)

    assert (head.weights >= 0).all()
    assert np.isfinite([*head.weights, head.bias]).all()
    scores = head(evidence)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_few_pairs_leave_the_weights_near_each_other():
    few, many = fit(*labelled(20, seed=3)), fit(*labelled(20_000, seed=3))

    assert np.ptp(few.weights) < np.ptp(many.weights)


def test_pairs_that_are_told_apart_without_error_keep_the_weights_finite():
    evidence = np.concatenate([np.full((30, 3), 1.0), np.full((30, 3), -1.0)])
    head = EvidenceHead.fit(evidence, np.arange(60) < 30, mean=np.zeros(3), scale=np.full(3, 1e-9))

    assert np.isfinite([*head.weights, head.bias]).all()
    assert (head(evidence)[:30] > 0.5).all()
    assert (head(evidence)[30:] < 0.5).all()


def test_a_kind_that_speaks_against_a_match_has_no_positive_weight():
    """Two kinds: what is told, and an echo that repeats it more loudly than what is seen."""
    rng = np.random.default_rng(4)
    seen, told = rng.normal(size=(2, 20_000))
    matched = rng.random(20_000) < 1 / (1 + np.exp(-2 * seen))
    heard = {"mean": np.zeros(2), "scale": np.ones(2)}
    evidence = np.stack([told, seen + 0.7 * told], axis=1)

    bound = EvidenceHead.fit(evidence, matched, **heard)
    against = EvidenceHead.fit(evidence, matched, **heard, against=1)

    assert bound.weights[0] == 0
    np.testing.assert_allclose(against.weights, [-1.4, 2], atol=0.1)
    few = EvidenceHead.fit(evidence[:30], matched[:30], **heard, against=1)
    assert against.weights[0] < few.weights[0] <= 0  # drawn towards nothing
    other = EvidenceHead.fit(evidence * [-1, 1], matched, **heard, against=1)
    assert other.weights[0] == 0


def test_what_speaks_against_does_not_change_how_the_others_are_drawn_together():
    evidence, matched = labelled(40, seed=3)
    silent = np.column_stack([np.zeros(40), evidence])
    mean, scale = np.array([0.3, 0.0, -2.0]), np.array([0.1, 1.0, 5.0])

    head = EvidenceHead.fit(
        silent, matched, mean=np.append(0, mean), scale=np.append(1, scale), against=1
    )

    assert head.weights[0] == 0
    np.testing.assert_allclose(head.weights[1:], fit(evidence, matched).weights, atol=1e-4)
