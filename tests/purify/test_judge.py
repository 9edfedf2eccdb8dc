from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from nccleaner.purify.judge import Judge, fit_judge
from nccleaner.purify.noise import NoiseRate

RATE = 0.3


def evidence_of(matched, seed):
    """Two networks that see noisy copies of the same two kinds of evidence."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(len(matched), 2)) + np.where(matched, 0.8, -0.8)[:, None]
    return [(base + 0.3 * rng.normal(size=base.shape)).astype(np.float32) for _ in range(2)]


def agreement_of(matched, seed, without=0.25):
    """What siblings say; a share of the pairs has none."""
    rng = np.random.default_rng(seed)
    agreement = rng.normal(size=len(matched)) + np.where(matched, 0.8, -0.8)
    return np.where(rng.random(len(matched)) < without, np.nan, agreement).astype(np.float32)


CLEAN = np.random.default_rng(2).random(3000) > RATE


def fit(labelled=300, seed=0, **noise):
    matched = np.arange(labelled) % 2 == 0
    evidence = evidence_of(matched, seed + 1)
    pool = evidence_of(CLEAN, seed + 3)
    similarity = np.tanh(evidence[0].mean(axis=1)).astype(np.float32)
    return fit_judge(evidence, similarity, matched, pool_evidence=pool, seed=seed, **noise), pool


@pytest.fixture(scope="module")
def judged():
    return fit()


def with_siblings(judge, pool, labelled=300, without=0.25, seed=0):
    """A judge that also hears siblings, and what those say of the pool."""
    matched = np.arange(labelled) % 2 == 0
    of_pool = agreement_of(CLEAN, seed + 5)
    hearing = judge.with_siblings(
        evidence_of(matched, seed + 1),
        agreement_of(matched, seed + 4, without),
        pool_evidence=pool,
        pool_agreement=of_pool,
        seed=seed,
    )
    return hearing, of_pool


# The noise rate


def test_it_finds_the_noise_rate(judged):
    assert judged[0].noise_rate == pytest.approx(RATE, abs=0.03)
    assert judged[0].noise is None


def test_a_noise_rate_that_is_known_is_taken():
    known = NoiseRate(passing=0.5, matched_passing=0.9, mismatched_passing=0.1, trusted=100)

    assert fit(noise_rate=0.15)[0].noise_rate == 0.15
    judge, _ = fit(noise=known)
    assert (judge.noise, judge.noise_rate) == (known, known.value)


# Scores


def echo(matched, seed):
    """Evidence of two networks that also repeat what training was told, and what that was."""
    rng = np.random.default_rng(seed + 10)
    belief = np.clip(
        0.5 + 0.2 * np.where(matched, 1, -1) + 0.4 * rng.normal(size=len(matched)), 0, 1
    )
    heard = [rows + 3 * (belief - 0.5)[:, None] for rows in evidence_of(matched, seed)]
    return [np.column_stack([belief, rows]).astype(np.float32) for rows in heard]


def test_a_judge_that_hears_belief_discounts_what_networks_repeat_of_it():
    labels = np.arange(300) % 2 == 0
    labelled, pool = echo(labels, 1), echo(CLEAN, 3)
    without = [[rows[:, 1:] for rows in known] for known in (labelled, pool)]
    none = np.zeros(300, np.float32)
    deaf = fit_judge(without[0], none, labels, pool_evidence=without[1], seed=0, noise_rate=RATE)

    judge = fit_judge(
        labelled, none, labels, pool_evidence=pool, hears_belief=True, seed=0, noise_rate=RATE
    )

    assert all(head.weights[0] < 0 for head in judge.heads)
    better = roc_auc_score(CLEAN, judge.corrected_similarity(pool))
    assert better > roc_auc_score(CLEAN, deaf.corrected_similarity(without[1])) + 0.01
    restored = Judge.from_json(json.loads(json.dumps(judge.to_json())))
    assert (restored.hears_belief, deaf.hears_belief) == (True, False)

    hearing = judge.with_siblings(
        labelled,
        agreement_of(labels, 4),
        pool_evidence=pool,
        pool_agreement=agreement_of(CLEAN, 5),
        seed=0,
    )
    for head in hearing.sibling_heads:
        assert len(head.weights) == 4  # belief, two kinds of evidence, siblings
        assert head.weights[0] < 0 < head.weights[3]


def test_little_is_made_of_a_belief_that_hardly_differs():
    """Where nearly all pairs are believed, the one that is a little less is no other pair."""
    labels = np.arange(300) % 2 == 0
    evidence, pool = evidence_of(labels, 1), evidence_of(CLEAN, 3)
    told, of_pool = np.ones(300), np.ones(len(CLEAN))
    told[labels.nonzero()[0][::6]] = 0.97
    of_pool[:3] = 0.96
    labelled, known = (
        [np.column_stack([belief, rows]) for rows in of_nets]
        for belief, of_nets in ((told, evidence), (of_pool, pool))
    )
    none = np.zeros(300, np.float32)
    deaf = fit_judge(evidence, none, labels, pool_evidence=pool, seed=0, noise_rate=RATE)

    judge = fit_judge(
        labelled, none, labels, pool_evidence=known, hears_belief=True, seed=0, noise_rate=RATE
    )

    np.testing.assert_allclose(
        judge.corrected_similarity(known), deaf.corrected_similarity(pool), atol=0.02
    )


def test_labelled_pairs_are_scored_by_heads_that_did_not_learn_from_them():
    labels = np.arange(40) % 2 == 0
    rng = np.random.default_rng(0)
    nothing = [rng.normal(size=(40, 8)) for _ in range(2)]  # no kind of evidence says anything
    judge = fit_judge(nothing, np.zeros(40, np.float32), labels, pool_evidence=nothing, seed=0)

    seen = roc_auc_score(labels, judge.corrected_similarity(nothing))
    assert seen > 0.55  # what the heads learned by heart
    assert roc_auc_score(labels, judge.labelled.corrected_similarity) < seen - 0.1


@pytest.mark.parametrize("labelled", [4, 5, 21])
def test_two_pairs_of_each_label_are_enough(labelled):
    judge, pool = fit(labelled=labelled)

    assert np.isfinite(judge.corrected_similarity(pool)).all()
    assert np.isfinite(judge.labelled.clean_probability).all()


def test_corrected_similarity_is_the_mean_of_both_heads(judged):
    judge, pool = judged
    by_hand = (judge.heads[0](pool[0]) + judge.heads[1](pool[1])) / 2

    scores = judge.corrected_similarity(pool)

    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, by_hand, atol=1e-7)
    assert len(judge.corrected_similarity([rows[:0] for rows in pool])) == 0


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.8])
def test_clean_probability_is_bayes_rule(rate):
    """By counting: of pairs that score s, s : 1 - s are matched where both kinds are as many."""
    judge, _ = fit(noise_rate=rate)
    corrected = np.linspace(0, 1, 101, dtype=np.float32)

    probability = judge.clean_probability(corrected)

    matched, mismatched = 1e6 * (1 - rate) * corrected, 1e6 * rate * (1 - corrected)
    assert probability.dtype == np.float32
    np.testing.assert_allclose(probability, matched / (matched + mismatched), atol=1e-6)


def calibration_error(probability, truth):
    """Mean distance between what is said and what is, in ten bins of equal count."""
    bins = np.array_split(np.argsort(probability), 10)
    return np.mean([abs(probability[rows].mean() - truth[rows].mean()) for rows in bins])


def test_clean_probability_means_what_it_says():
    judge, pool = fit(labelled=2000)
    corrected = judge.corrected_similarity(pool)

    assert calibration_error(judge.clean_probability(corrected), CLEAN) < 0.03
    assert calibration_error(corrected, CLEAN) > 0.05  # which assumes as many of both


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_pool_of_one_kind_can_still_hold_a_pair_of_the_other(rate):
    judge, _ = fit(noise_rate=rate)

    low, middle, high = judge.clean_probability([0.0, 0.5, 1.0])

    assert (low, high) == (0, 1)
    assert middle == pytest.approx(1 - rate, abs=1e-3)


def test_what_it_learned_from_is_scored_as_any_pair(judged):
    judge, pool = judged
    for each in (judge, with_siblings(judge, pool)[0]):
        np.testing.assert_array_equal(
            each.labelled.clean_probability,
            each.clean_probability(each.labelled.corrected_similarity),
        )
    assert judge.labelled.column("similarity") is judge.labelled.similarity


# Siblings


def test_siblings_make_it_better_where_there_are_some(judged):
    judge, pool = judged
    hearing, agreement = with_siblings(judge, pool)
    have = ~np.isnan(agreement)

    alone, both = judge.corrected_similarity(pool), hearing.corrected_similarity(pool, agreement)

    np.testing.assert_array_equal(both[~have], alone[~have])
    assert roc_auc_score(CLEAN[have], both[have]) > roc_auc_score(CLEAN[have], alone[have]) + 0.005
    np.testing.assert_array_equal(hearing.corrected_similarity(pool), alone)
    assert hearing.noise_rate == judge.noise_rate


def test_with_siblings_it_scores_as_its_heads_over_all_the_evidence(judged):
    judge, pool = judged
    hearing, agreement = with_siblings(judge, pool)
    have = ~np.isnan(agreement)

    both = hearing.corrected_similarity(pool, agreement)

    by_hand = [
        head(np.column_stack([rows, agreement])[have])
        for head, rows in zip(hearing.sibling_heads, pool, strict=True)
    ]
    np.testing.assert_allclose(both[have], np.mean(by_hand, axis=0), atol=1e-7)


def test_labelled_pairs_with_siblings_are_scored_by_heads_that_did_not_learn_from_them():
    labels = np.arange(60) % 2 == 0
    rng = np.random.default_rng(0)
    nothing = [rng.normal(size=(60, 8)) for _ in range(2)]
    said = rng.normal(size=60).astype(np.float32)
    judge = fit_judge(nothing, np.zeros(60, np.float32), labels, pool_evidence=nothing, seed=0)

    hearing = judge.with_siblings(nothing, said, pool_evidence=nothing, pool_agreement=said, seed=0)

    seen = roc_auc_score(labels, hearing.corrected_similarity(nothing, said))
    assert seen > 0.55
    assert roc_auc_score(labels, hearing.labelled.corrected_similarity) < seen - 0.1


@pytest.mark.parametrize(("labelled", "without"), [(38, 0.0), (300, 1.0)])
def test_too_few_labelled_pairs_with_siblings_teach_nothing(labelled, without):
    judge, pool = fit(labelled=labelled)

    hearing, agreement = with_siblings(judge, pool, labelled, without)

    assert hearing is judge
    np.testing.assert_array_equal(
        judge.corrected_similarity(pool, agreement), judge.corrected_similarity(pool)
    )


def test_twenty_of_each_kind_are_enough():
    judge, pool = fit(labelled=40)

    hearing, agreement = with_siblings(judge, pool, 40, without=0.0)

    assert len(hearing.sibling_heads) == 2
    assert np.isfinite(hearing.corrected_similarity(pool, agreement)).all()


# Files


@pytest.mark.parametrize("noise", [None, NoiseRate(0.6, 0.9, 0.1, 50)])
def test_json_restores_it_exactly(noise):
    judge, pool = fit(noise=noise)
    for each in (judge, with_siblings(judge, pool)[0]):
        restored = Judge.from_json(json.loads(json.dumps(each.to_json())))

        agreement = agreement_of(CLEAN, 5)
        np.testing.assert_array_equal(
            restored.corrected_similarity(pool, agreement),
            each.corrected_similarity(pool, agreement),
        )
        assert len(restored.sibling_heads) == len(each.sibling_heads)
        assert (restored.noise_rate, restored.noise) == (each.noise_rate, noise)
        for name in ("matched", "similarity", "corrected_similarity", "clean_probability"):
            here, there = getattr(restored.labelled, name), getattr(each.labelled, name)
            np.testing.assert_array_equal(here, there)
            assert here.dtype == there.dtype


def test_the_same_seed_gives_the_same_judge():
    first, again = (with_siblings(*fit())[0] for _ in range(2))

    assert first.to_json() == again.to_json()
