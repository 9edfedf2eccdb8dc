from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from judges import (
    CLEAN,
    DEAF,
    HEARING,
    NO_EVIDENCE,
    RATE,
    agreement_of,
    echo,
    evidence_of,
    fit,
    hear,
    untold,
)
from sklearn.metrics import roc_auc_score

from nccleaner.purify.fit_judge import fit_judge, with_siblings
from nccleaner.purify.heads import Prior
from nccleaner.purify.judge import Judge
from nccleaner.purify.noise import NoiseRate


@pytest.fixture(scope="module")
def judged():
    return fit()


def test_it_finds_the_noise_rate(judged):
    assert judged[0].noise_rate == pytest.approx(RATE, abs=0.03)
    assert judged[0].noise is None


def test_a_noise_rate_that_is_known_is_taken():
    assert fit(noise_rate=0.15)[0].noise_rate == 0.15


def test_other_evidence_of_the_noise_rate_is_heeded_beside_its_own(judged):
    other = NoiseRate(passing=0.5, matched_passing=0.9, mismatched_passing=0.1, trusted=100)

    judge, _ = fit(noise=other)

    assert judge.noise == replace(other, beside=judge.noise.beside)
    assert judge.noise.beside.value == judged[0].noise_rate
    assert judged[0].noise_rate < judge.noise_rate < other.value
    assert judge.noise_rate == judge.noise.value


def test_a_judge_that_hears_belief_discounts_what_networks_repeat_of_it():
    labels = np.arange(300) % 2 == 0
    labelled, pool = echo(labels, 1), echo(CLEAN, 3)
    without = [[rows[:, 1:] for rows in known] for known in (labelled, pool)]
    none = np.zeros(300, np.float32)
    deaf = fit_judge(
        without[0],
        none,
        labels,
        pool_evidence=without[1],
        priors=DEAF,
        seed=0,
        noise_rate=RATE,
    )

    judge = fit_judge(
        labelled, none, labels, pool_evidence=pool, priors=HEARING, seed=0, noise_rate=RATE
    )

    assert all(head.weights[0] < 0 for head in judge.heads)
    better = roc_auc_score(CLEAN, judge.corrected_similarity(pool))
    assert better > roc_auc_score(CLEAN, deaf.corrected_similarity(without[1])) + 0.01
    restored = Judge.from_json(json.loads(json.dumps(judge.to_json())))
    assert (restored.hears_belief, deaf.hears_belief) == (True, False)

    hearing = with_siblings(
        judge,
        labelled,
        agreement_of(labels, 4),
        pool_evidence=pool,
        pool_agreement=agreement_of(CLEAN, 5),
        priors=HEARING,
        seed=0,
    )
    for head in hearing.sibling_heads:
        assert len(head.weights) == 4  # belief, two kinds of evidence, siblings
        assert head.weights[0] < 0 < head.weights[3]


def test_few_probes_are_helped_by_pairs_that_training_never_saw():
    """Where a belief tells nothing that the evidence does not."""
    labels = np.arange(24) % 2 == 0
    known = [Prior(np.ones(2), np.full(2, 3.0))] * 2
    pool, none = echo(CLEAN, 3, right=0.0), np.zeros(24, np.float32)
    errors = {False: [], True: []}
    for seed in range(6):
        outside = untold(np.arange(200) % 2 == 0, 100 + seed)
        for heard, found in errors.items():
            judge = fit_judge(
                echo(labels, 50 + seed, right=0.0),
                none,
                labels,
                pool_evidence=pool,
                priors=known,
                seed=0,
                outside=outside if heard else None,
                noise_rate=RATE,
            )
            assert judge.labelled.corrected_similarity.shape == (24,)
            clean = judge.clean_probability(judge.corrected_similarity(pool))
            found.append(np.mean((clean - CLEAN) ** 2))

    assert np.mean(errors[True]) < 0.97 * np.mean(errors[False])


def test_where_a_pair_stood_says_nothing_of_its_label():
    """Exchanged three times there are more mismatched pairs outside; belief is not to blame."""
    labels = np.arange(300) % 2 == 0
    pool, none = echo(CLEAN, 3), np.zeros(300, np.float32)
    weights = []
    for times in (1, 3):
        judge = fit_judge(
            echo(labels, 1),
            none,
            labels,
            pool_evidence=pool,
            priors=[Prior(np.ones(2), np.full(2, 3.0))] * 2,
            seed=0,
            outside=untold(np.arange(200) % 2 == 0, 4, heavier=times),
            noise_rate=RATE,
        )
        weights.append(np.mean([head.weights for head in judge.heads], axis=0))

    np.testing.assert_allclose(weights[0], weights[1], atol=0.15)


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
    deaf = fit_judge(
        evidence, none, labels, pool_evidence=pool, priors=DEAF, seed=0, noise_rate=RATE
    )

    judge = fit_judge(
        labelled, none, labels, pool_evidence=known, priors=HEARING, seed=0, noise_rate=RATE
    )

    np.testing.assert_allclose(
        judge.corrected_similarity(known), deaf.corrected_similarity(pool), atol=0.02
    )


def learned_by_heart(count):
    """A judge of evidence that says nothing, the evidence and the labels."""
    labels = np.arange(count) % 2 == 0
    rng = np.random.default_rng(0)
    nothing = [rng.normal(size=(count, 8)) for _ in range(2)]
    none = np.zeros(count, np.float32)
    judge = fit_judge(nothing, none, labels, pool_evidence=nothing, priors=NO_EVIDENCE, seed=0)
    return judge, nothing, labels


def test_labelled_pairs_are_scored_by_heads_that_did_not_learn_from_them():
    judge, nothing, labels = learned_by_heart(40)

    seen = roc_auc_score(labels, judge.corrected_similarity(nothing))
    assert seen > 0.55
    assert roc_auc_score(labels, judge.labelled.corrected_similarity) < seen - 0.1


@pytest.mark.parametrize("labelled", [4, 5, 21])
def test_two_pairs_of_each_label_are_enough(labelled):
    judge, pool = fit(labelled=labelled)

    assert np.isfinite(judge.corrected_similarity(pool)).all()
    assert np.isfinite(judge.labelled.clean_probability).all()


def test_labelled_pairs_with_siblings_are_scored_by_heads_that_did_not_learn_from_them():
    judge, nothing, labels = learned_by_heart(60)
    said = np.random.default_rng(1).normal(size=60).astype(np.float32)

    hearing = with_siblings(
        judge, nothing, said, pool_evidence=nothing, pool_agreement=said, priors=NO_EVIDENCE, seed=0
    )

    seen = roc_auc_score(labels, hearing.corrected_similarity(nothing, said))
    assert seen > 0.55
    assert roc_auc_score(labels, hearing.labelled.corrected_similarity) < seen - 0.1


@pytest.mark.parametrize(("labelled", "without"), [(38, 0.0), (300, 1.0)])
def test_too_few_labelled_pairs_with_siblings_teach_nothing(labelled, without):
    judge, pool = fit(labelled=labelled)

    hearing, agreement = hear(judge, pool, labelled, without)

    assert hearing is judge
    np.testing.assert_array_equal(
        judge.corrected_similarity(pool, agreement), judge.corrected_similarity(pool)
    )


def test_twenty_of_each_kind_are_enough():
    judge, pool = fit(labelled=40)

    hearing, agreement = hear(judge, pool, 40, without=0.0)

    assert len(hearing.sibling_heads) == 2
    assert np.isfinite(hearing.corrected_similarity(pool, agreement)).all()


def test_the_same_seed_gives_the_same_judge():
    first, again = (hear(*fit())[0] for _ in range(2))

    assert first.to_json() == again.to_json()
