from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from nccleaner.purify.judge import Judge, fit_judge
from nccleaner.purify.mixture import fit_mixture

FIT = partial(fit_mixture, prior="anchor", max_iterations=10, tolerance=1e-3)
RATE = 0.3


def evidence_of(matched, seed):
    """Two networks that see noisy copies of the same two kinds of evidence."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(len(matched), 2)) + np.where(matched, 1.4, -1.4)[:, None]
    return [(base + 0.3 * rng.normal(size=base.shape)).astype(np.float32) for _ in range(2)]


def fit(labelled=300, seed=0):
    matched = np.arange(labelled) % 2 == 0
    evidence = evidence_of(matched, seed + 1)
    clean = np.random.default_rng(seed + 2).random(3000) > RATE
    pool = evidence_of(clean, seed + 3)
    similarity = np.tanh(evidence[0].mean(axis=1)).astype(np.float32)
    return fit_judge(evidence, similarity, matched, pool_evidence=pool, fit=FIT, seed=seed), pool


@pytest.fixture(scope="module")
def judged():
    return fit()


def test_it_finds_the_noise_rate(judged):
    judge, _ = judged

    assert judge.mixture.noise_rate == pytest.approx(RATE, abs=0.03)
    assert not judge.mixture.fallback


def test_labelled_pairs_are_scored_by_heads_that_did_not_learn_from_them():
    labels = np.arange(40) % 2 == 0
    rng = np.random.default_rng(0)
    nothing = [rng.normal(size=(40, 8)) for _ in range(2)]  # no kind of evidence says anything
    judge = fit_judge(
        nothing, np.zeros(40, np.float32), labels, pool_evidence=nothing, fit=FIT, seed=0
    )

    seen = roc_auc_score(labels, judge.corrected_similarity(nothing))
    assert seen > 0.55  # what the heads learned by heart
    assert roc_auc_score(labels, judge.labelled.corrected_similarity) < seen - 0.1


@pytest.mark.parametrize("labelled", [4, 5, 21])
def test_two_pairs_of_each_label_are_enough(labelled):
    judge, pool = fit(labelled=labelled)

    assert np.isfinite(judge.corrected_similarity(pool)).all()
    assert np.isfinite(judge.labelled.corrected_similarity).all()


def test_corrected_similarity_is_the_mean_of_both_heads(judged):
    judge, pool = judged
    by_hand = (judge.heads[0](pool[0]) + judge.heads[1](pool[1])) / 2

    scores = judge.corrected_similarity(pool)

    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, by_hand, atol=1e-7)
    assert len(judge.corrected_similarity([rows[:0] for rows in pool])) == 0


def test_what_it_learned_from_is_scored_as_any_pair(judged):
    labelled = judged[0].labelled

    np.testing.assert_array_equal(
        labelled.clean_probability,
        judged[0].mixture.clean_probability(labelled.corrected_similarity),
    )
    assert labelled.column("similarity") is labelled.similarity


def test_json_restores_it_exactly(judged):
    judge, pool = judged
    restored = Judge.from_json(json.loads(json.dumps(judge.to_json())))

    np.testing.assert_array_equal(
        restored.corrected_similarity(pool), judge.corrected_similarity(pool)
    )
    assert restored.mixture == judge.mixture
    for name in ("matched", "similarity", "corrected_similarity", "clean_probability"):
        here, there = getattr(restored.labelled, name), getattr(judge.labelled, name)
        np.testing.assert_array_equal(here, there)
        assert here.dtype == there.dtype


def test_the_same_seed_gives_the_same_judge():
    first, again = fit()[0], fit()[0]

    assert first.to_json() == again.to_json()
