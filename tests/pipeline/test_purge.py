"""The rules of `purge`, on one fitted run."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import Listener
from runreading import read_keys, untrusted_scores

import nccleaner
from nccleaner.errors import UsageError


@pytest.mark.parametrize("by", ["corrected_similarity", "clean_probability", "similarity"])
def test_a_threshold_keeps_the_scores_that_reach_it(run, by):
    scores = untrusted_scores(run, by)
    threshold = float(sorted(scores.values())[60])  # itself a score: it is kept

    summary = nccleaner.purge(run, threshold=threshold, by=by).summary

    kept = read_keys(run / "clean" / "manifest")
    assert {key for key in scores if key in kept} == {
        key for key, score in scores.items() if score >= np.float32(threshold)
    }
    assert (summary.cut_off.column, summary.cut_off.rule) == (by, "threshold")
    assert summary.cut_off.value == threshold


def test_without_a_rule_the_clean_probability_decides(run):
    summary = nccleaner.purge(run).summary

    kept = read_keys(run / "clean" / "manifest")
    for key, probability in untrusted_scores(run, "clean_probability").items():
        assert (key in kept) == (probability > 0.5)
    assert summary.cut_off.rule == "meta_prior"


@pytest.mark.parametrize("fraction", [0.5, 0.6])
def test_a_fraction_of_all_pairs_is_kept(run, fraction, clipart):
    summary = nccleaner.purge(run, keep_fraction=fraction).summary

    scores = untrusted_scores(run, "corrected_similarity")
    passing = sum(score >= summary.cut_off.value for score in scores.values())
    assert summary.kept == passing + len(clipart.trusted)
    assert abs(summary.kept - fraction * 240) <= 1
    assert summary.cut_off.rule == "keep_fraction"


def test_of_all_pairs_those_labelled_0_are_not_kept(run):
    assert nccleaner.purge(run, keep_fraction=1.0).summary.kept == 240 - 6


def test_trusted_pairs_are_kept_whatever_the_fraction(run, clipart):
    reporter = Listener()

    summary = nccleaner.purge(run, keep_fraction=0.01, reporter=reporter).summary

    assert read_keys(run / "clean" / "manifest") == set(clipart.trusted)
    assert summary.kept == len(clipart.trusted)
    assert any("labelled 1 are more than" in note for note in reporter.notes)


@pytest.mark.parametrize("by", ["corrected_similarity", "clean_probability", "similarity"])
def test_trusted_pairs_are_kept_whatever_the_threshold(run, by, clipart):
    summary = nccleaner.purge(run, threshold=1.0, by=by).summary

    kept = read_keys(run / "clean" / "manifest")
    assert set(clipart.trusted) <= kept
    assert not set(clipart.mismatched(6)) & kept
    assert summary.kept + summary.dropped["mismatched"] == 240
    assert nccleaner.purge(run, threshold=0.0).summary.kept == 240 - 6


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"threshold": 0.3, "keep_fraction": 0.5}, "Give one"),
        ({"threshold": 0.3, "target_precision": 0.9}, "Give one"),
        ({"threshold": 1.5}, "outside the range"),
        ({"threshold": float("nan")}, "outside the range"),
        ({"threshold": -0.1}, "outside the range"),
        ({"threshold": -1.1, "by": "similarity"}, "outside the range"),
        ({"threshold": 0.1, "by": "quality"}, "is no score"),
        ({"keep_fraction": 0.0}, "not in"),
        ({"keep_fraction": 1.1}, "not in"),
        ({"keep_fraction": float("nan")}, "not in"),
        ({"target_precision": 0.0}, "not between"),
        ({"target_precision": 1.0}, "not between"),
        ({"target_precision": 95.0}, "not between"),
    ],
)
def test_rules_that_make_no_sense_are_refused(run, arguments, named):
    with pytest.raises(UsageError, match=named):
        nccleaner.purge(run, **arguments)
