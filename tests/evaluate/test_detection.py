from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, f1_score

from nccleaner.errors import InputError
from nccleaner.evaluate.detection import calibration_error, detection_metrics


def scores(n=2000, rate=0.4, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < rate
    similarity = np.clip(rng.normal(np.where(truth, 0.3, 0.6), 0.15), 0, 1).astype(np.float32)
    return truth, similarity.round(2), rng.beta(2, 2, n).astype(np.float32)


def metrics(truth, similarity, probability=None, kept=None):
    probability = np.full(len(truth), 0.5) if probability is None else probability
    kept = np.ones(len(truth), bool) if kept is None else kept
    return detection_metrics(
        truth, corrected_similarity=similarity, clean_probability=probability, kept=kept
    )


def f1(truth, dropped):
    return 2 * (truth & dropped).sum() / (truth.sum() + dropped.sum())


def test_auroc_is_the_chance_that_a_mismatched_pair_scores_lower():
    truth, similarity, _ = scores(400)
    lower = similarity[truth][:, None] < similarity[~truth]
    equal = similarity[truth][:, None] == similarity[~truth]
    assert metrics(truth, similarity).auroc == pytest.approx((lower + 0.5 * equal).mean())


def test_auprc_is_the_mean_precision_at_the_mismatched_pairs():
    truth, _, _ = scores(400)
    similarity = np.random.default_rng(1).permutation(400) - 100 * truth + 0.5  # without ties
    similarity = similarity.argsort().argsort() / 400
    order = similarity.argsort()
    precision = truth[order].cumsum() / np.arange(1, 401)
    assert metrics(truth, similarity).auprc == pytest.approx(precision[truth[order]].mean())


def test_the_decision_is_counted_as_sklearn_counts_it():
    truth, similarity, probability = scores()
    found = metrics(truth, similarity, probability, kept=probability > 0.5)
    counts = [
        *(found.kept_matched, found.dropped_matched),
        *(found.kept_mismatched, found.dropped_mismatched),
    ]
    assert counts == confusion_matrix(truth, probability <= 0.5).ravel().tolist()
    assert found.f1 == pytest.approx(f1_score(truth, probability <= 0.5))
    assert found.pairs == len(truth)
    assert found.noise_rate == pytest.approx(truth.mean())
    assert found.estimated_noise_rate == pytest.approx(1 - probability.astype(float).mean())


@given(
    pairs=st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=1, max_size=40),
    dtype=st.sampled_from([np.float32, np.float64]),
)
@settings(derandomize=True, max_examples=100, deadline=None)
def test_the_best_cutoff_keeps_its_promise_and_no_other_is_better(pairs, dtype):
    truth = np.array([flag for flag, _ in pairs])
    similarity = np.array([value / 8 for _, value in pairs], dtype=dtype)
    found = metrics(truth, similarity)
    if not truth.any():
        assert (found.f1, found.best_f1, found.best_cutoff) == (None, None, None)
        return
    cutoffs = [*similarity, 2.0]
    best = max(f1(truth, similarity < cutoff) for cutoff in cutoffs)
    assert found.best_f1 == pytest.approx(best)
    assert f1(truth, similarity < found.best_cutoff) == pytest.approx(best)


def test_the_best_cutoff_holds_in_float32():
    low = np.float32(0.3)
    similarity = np.array([low, np.nextafter(low, np.float32(1))])
    found = metrics([True, False], similarity)
    assert (similarity >= np.float32(found.best_cutoff)).tolist() == [False, True]


def test_calibration_error_agrees_with_the_bins_of_sklearn():
    _, _, probability = scores(5000)
    matched = np.random.default_rng(3).random(5000) < probability**2
    share, mean = calibration_curve(matched, probability, n_bins=15)
    sizes = np.histogram(probability, bins=np.linspace(0, 1, 16))[0]
    expected = (sizes[sizes > 0] * np.abs(share - mean)).sum() / 5000
    assert calibration_error(matched, probability.astype(float)) == pytest.approx(expected)


def test_calibration_error_is_zero_when_right_and_one_when_wrong():
    probability = np.array([0.0, 1.0, 1.0])
    assert calibration_error(np.array([False, True, True]), probability) == 0
    assert calibration_error(np.array([True, False, False]), probability) == 1


@pytest.mark.parametrize("truth", [[False] * 4, [True] * 4])
def test_what_one_class_cannot_define_is_none_and_json_can_hold_it(truth):
    found = metrics(truth, [0.1, 0.2, 0.3, 0.4])
    assert found.auroc is None
    assert (found.auprc is None) == (not any(truth))
    assert json.dumps(asdict(found), allow_nan=False)


@pytest.mark.parametrize(
    ("truth", "similarity"),
    [([], []), ([True], [0.1, 0.2]), ([True, False], [0.1, float("nan")]), ([[True]], [[0.5]])],
)
def test_scores_that_do_not_fit_the_truth_are_refused(truth, similarity):
    with pytest.raises(InputError):
        metrics(truth, similarity)
