from __future__ import annotations

import json

import numpy as np
import pytest
from judges import (
    CLEAN,
    agreement_of,
    fit,
    hear,
)
from sklearn.metrics import roc_auc_score

from nccleaner.purify.judge import Judge
from nccleaner.purify.noise import NoiseRate


@pytest.fixture(scope="module")
def judged():
    return fit()


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
    for each in (judge, hear(judge, pool)[0]):
        np.testing.assert_array_equal(
            each.labelled.clean_probability,
            each.clean_probability(each.labelled.corrected_similarity),
        )
    assert judge.labelled.column("similarity") is judge.labelled.similarity


def test_siblings_make_it_better_where_there_are_some(judged):
    judge, pool = judged
    hearing, agreement = hear(judge, pool)
    have = ~np.isnan(agreement)

    alone, both = judge.corrected_similarity(pool), hearing.corrected_similarity(pool, agreement)

    np.testing.assert_array_equal(both[~have], alone[~have])
    assert roc_auc_score(CLEAN[have], both[have]) > roc_auc_score(CLEAN[have], alone[have]) + 0.005
    np.testing.assert_array_equal(hearing.corrected_similarity(pool), alone)
    assert hearing.noise_rate == judge.noise_rate


def test_with_siblings_it_scores_as_its_heads_over_all_the_evidence(judged):
    judge, pool = judged
    hearing, agreement = hear(judge, pool)
    have = ~np.isnan(agreement)

    both = hearing.corrected_similarity(pool, agreement)

    by_hand = [
        head(np.column_stack([rows, agreement])[have])
        for head, rows in zip(hearing.sibling_heads, pool, strict=True)
    ]
    np.testing.assert_allclose(both[have], np.mean(by_hand, axis=0), atol=1e-7)


@pytest.mark.parametrize("noise", [None, NoiseRate(0.6, 0.9, 0.1, 50)])
def test_json_restores_it_exactly(noise):
    judge, pool = fit(noise=noise)
    for each in (judge, hear(judge, pool)[0]):
        restored = Judge.from_json(json.loads(json.dumps(each.to_json())))

        agreement = agreement_of(CLEAN, 5)
        np.testing.assert_array_equal(
            restored.corrected_similarity(pool, agreement),
            each.corrected_similarity(pool, agreement),
        )
        assert len(restored.sibling_heads) == len(each.sibling_heads)
        assert (restored.noise_rate, restored.noise) == (each.noise_rate, each.noise)
        assert (restored.noise is None) == (noise is None)
        for name in ("matched", "similarity", "corrected_similarity", "clean_probability"):
            here, there = getattr(restored.labelled, name), getattr(each.labelled, name)
            np.testing.assert_array_equal(here, there)
            assert here.dtype == there.dtype
