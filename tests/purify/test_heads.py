from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from nccleaner.purify.heads import (
    EvidenceHead,
    Prior,
    balanced,
    measure_echo,
    out_of_fold,
    stratified_folds,
)

WEIGHTS = np.array([1.5, 0.5, 0.8])


def labelled(count, seed=0, bias=0.0):
    rng = np.random.default_rng(seed)
    evidence = rng.normal(size=(count, 3)) * [0.1, 1.0, 5.0] + [0.3, 0.0, -2.0]
    standard = (evidence - [0.3, 0.0, -2.0]) / [0.1, 1.0, 5.0]
    return evidence, rng.random(count) < 1 / (1 + np.exp(-standard @ WEIGHTS - bias))


MEAN, SCALE = np.array([0.3, 0.0, -2.0]), np.array([0.1, 1.0, 5.0])


def fit(evidence, matched, prior=None):
    return EvidenceHead.fit(
        evidence, matched, mean=MEAN, scale=SCALE, prior=prior or Prior.equal(3)
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
    head = EvidenceHead.fit(
        evidence,
        np.arange(60) < 30,
        mean=np.zeros(3),
        scale=np.full(3, 1e-9),
        prior=Prior.equal(3),
    )

    assert np.isfinite([*head.weights, head.bias]).all()
    assert (head(evidence)[:30] > 0.5).all()
    assert (head(evidence)[30:] < 0.5).all()


def test_few_pairs_leave_the_weights_near_the_proportions_of_the_prior():
    prior = Prior(np.array([4.0, 2.0, 1.0]))
    few, many = (fit(*labelled(count, seed=3), prior).weights for count in (30, 20_000))

    def apart(weights):
        return np.abs(weights / weights.sum() - prior.proportions / 7).max()

    assert apart(few) < 0.1
    assert apart(few) < apart(many)
    np.testing.assert_allclose(many, WEIGHTS, atol=0.1)


# How much each pair counts


def test_a_pair_of_weight_two_counts_as_two():
    evidence, matched = labelled(60)
    weights = np.where(np.arange(60) % 3 == 0, 2.0, 1.0)
    twice = np.repeat(np.arange(60), weights.astype(int))
    fitted = {"mean": MEAN, "scale": SCALE, "prior": Prior.equal(3)}

    once = EvidenceHead.fit(evidence, matched, **fitted, weights=weights)

    other = EvidenceHead.fit(evidence[twice], matched[twice], **fitted)
    np.testing.assert_allclose([*once.weights, once.bias], [*other.weights, other.bias], atol=1e-3)


def test_both_labels_are_as_heavy_whatever_their_number_and_weights():
    matched = np.array([True, False, False, False])
    np.testing.assert_allclose(balanced(matched), [2, *[2 / 3] * 3])
    weights = balanced(matched, np.array([1.0, 1.0, 2.0, 3.0]))
    np.testing.assert_allclose(weights, [3.5, *(3.5 * np.array([1, 2, 3]) / 6)])


def test_pairs_without_a_fold_teach_all_heads_and_are_not_scored():
    evidence, matched = labelled(90)
    more, more_matched = labelled(300, seed=7)
    folds = stratified_folds(matched, np.random.default_rng(0))
    fitted = {"mean": MEAN, "scale": SCALE, "prior": Prior.equal(3)}

    scores = out_of_fold(
        np.concatenate([evidence, more]),
        np.append(matched, more_matched),
        folds=np.append(folds, np.full(300, -1)),
        **fitted,
    )

    rest = folds != 4
    head = EvidenceHead.fit(
        np.concatenate([evidence[rest], more]), np.append(matched[rest], more_matched), **fitted
    )
    assert scores.shape == (90,)
    np.testing.assert_allclose(scores[~rest], head(evidence[~rest]), atol=1e-3)


# What training was told


def repeated(count, seed=4):
    """A belief that says nothing, and one kind of evidence that repeats it; matched or not."""
    rng = np.random.default_rng(seed)
    seen = rng.normal(size=count)
    matched = rng.random(count) < 1 / (1 + np.exp(-2 * seen))
    belief = rng.random(count)
    return np.stack([belief, seen + ECHO * belief], axis=1), matched


ECHO = 1.4
HEARD = {"mean": np.array([0.5, 0.7]), "scale": np.array([0.5, 1.0])}


def hearing(evidence, matched, echo):
    return EvidenceHead.fit(evidence, matched, **HEARD, prior=Prior(np.ones(1), np.array([echo])))


@pytest.mark.parametrize("echo", [0.0, ECHO, 3.0])
def test_many_pairs_say_what_a_belief_is_worth_whatever_was_expected(echo):
    head = hearing(*repeated(20_000), echo)

    np.testing.assert_allclose(head.weights, [-ECHO, 2], atol=0.1)  # a belief of 1 is 2 scales up


def test_few_pairs_leave_it_at_what_takes_the_echo_off():
    heads = [[hearing(*repeated(30, seed), echo) for seed in range(20)] for echo in (ECHO, 0.0)]

    left, missing = (
        np.mean([abs(head.weights[0] + head.weights[1] * ECHO / 2) for head in drawn])
        for drawn in heads
    )

    assert left < 0.2
    assert missing > 2 * left


def test_a_belief_never_speaks_for_a_match():
    evidence, matched = repeated(20_000)
    evidence[:, 0] = np.where(matched, 0.9, 0.2)

    assert hearing(evidence, matched, ECHO).weights[0] == 0


def test_a_belief_that_says_nothing_does_not_change_how_the_others_are_drawn_together():
    evidence, matched = labelled(40, seed=3)
    silent = np.column_stack([np.zeros(40), evidence])

    head = EvidenceHead.fit(
        silent,
        matched,
        mean=np.append(0, MEAN),
        scale=np.append(1, SCALE),
        prior=Prior(np.ones(3), np.zeros(3)),
    )

    assert head.weights[0] == 0
    np.testing.assert_allclose(head.weights[1:], fit(evidence, matched).weights, atol=1e-4)


def test_the_echo_is_what_sets_pairs_that_were_trained_on_apart():
    rng = np.random.default_rng(0)
    told, untold = (
        rng.normal([1.0, 0.3, 2.0], 1, (3000, 3)),
        rng.normal([0.2, 0.3, 3.0], 1, (3000, 3)),
    )
    belief = np.full(3000, 0.8)

    echo = measure_echo(told, belief, untold)

    np.testing.assert_allclose(echo, [1.0, 0.0, 0.0], atol=0.1)
    assert echo[2] == 0  # training takes nothing off what it believes
    unknown = [
        (told[:0], belief[:0], untold),
        (told, belief, untold[:0]),
        (told, 0 * belief, untold),
    ]
    for nothing in unknown:
        np.testing.assert_array_equal(measure_echo(*nothing), 0)


def test_the_prior_of_one_more_kind():
    more = Prior(np.array([1.0, 2.0]), np.array([0.5, 0.1])).beside(3.0)

    np.testing.assert_array_equal(more.proportions, [1, 2, 3])
    np.testing.assert_array_equal(more.echo, [0.5, 0.1, 0])
    assert Prior.equal(2).beside(1.0).echo is None
