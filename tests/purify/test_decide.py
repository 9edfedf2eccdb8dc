from __future__ import annotations

import numpy as np
import pytest

from nccleaner.purify.decide import Decision, ScoreCounts, cut_at, meta_prior_decision

# Decisions


def test_a_threshold_keeps_what_reaches_it():
    scores = np.array([0.3, 0.2999999, 0.3000001], np.float32)

    assert Decision("similarity", 0.3, "threshold").keeps(scores).tolist() == [True, False, True]


def test_the_meta_prior_keeps_more_than_one_half():
    half = np.float32(0.5)
    scores = [half, np.nextafter(half, np.float32(1)), np.nextafter(half, np.float32(0))]

    assert meta_prior_decision().keeps(scores).tolist() == [False, True, False]


# Counts


@pytest.fixture(params=["similarity", "corrected_similarity"])
def counted(request):
    """Scores, and their counts, which came in portions."""
    scores = np.random.default_rng(0).beta(2, 3, 10_000).astype(np.float32)
    if request.param == "similarity":
        scores = scores * 2 - 1
    counts = ScoreCounts(request.param)
    for portion in np.array_split(scores, 7):
        counts.add(portion, portion)
    return request.param, scores, counts


@pytest.mark.parametrize("share", [0.01, 0.3, 0.999, 1.0])
def test_a_cut_off_for_a_share_is_the_quantile_of_all_scores(counted, share):
    column, scores, counts = counted

    decision = Decision(column, float(counts.cutoffs([share])[0]), "keep_fraction")

    assert abs(decision.keeps(scores).sum() - share * len(scores)) <= 1
    by_quantile = scores >= np.quantile(scores, 1 - share, method="higher")
    assert (decision.keeps(scores) != by_quantile).sum() <= 1


def test_what_a_cut_off_keeps_is_counted_exactly(counted):
    column, scores, counts = counted
    cutoffs = counts.cutoffs([step / 97 for step in range(1, 98)])

    kept = [Decision(column, cutoff, "threshold").keeps(scores).sum() for cutoff in cutoffs]

    assert counts.at_least(cutoffs).tolist() == kept
    assert counts.total == len(scores)


def test_equal_scores_are_kept_or_dropped_together():
    counts = ScoreCounts("clean_probability")
    scores = np.repeat(np.float32([0.0, 0.25, 1.0]), [10, 30, 60])
    counts.add(scores, scores)

    assert counts.at_least(counts.cutoffs([0.01, 0.61, 0.89, 1.0])).tolist() == [60, 60, 90, 100]


@pytest.mark.parametrize(("column", "low"), [("similarity", -1.0), ("clean_probability", 0.0)])
def test_the_ends_of_the_range_are_scores_too(column, low):
    scores = np.float32([low, 1.0])
    counts = ScoreCounts(column)
    counts.add(scores, scores)

    half, whole = (Decision(column, cutoff, "keep_fraction") for cutoff in counts.cutoffs([0.5, 1]))

    assert half.keeps(scores).tolist() == [False, True]
    assert whole.keeps(scores).tolist() == [True, True]


def test_counts_of_portions_add_up(counted):
    column, scores, counts = counted
    half = ScoreCounts(column)
    half.add(scores[:4000], scores[:4000])
    rest = ScoreCounts(column)
    rest.add(scores[4000:], scores[4000:])

    cutoffs = counts.cutoffs([0.2, 0.8])

    assert (half + rest).at_least(cutoffs).tolist() == counts.at_least(cutoffs).tolist()
    assert half.total == 4000


def test_cuts_count_each_standing_apart():
    standings = [ScoreCounts("clean_probability") for _ in range(2)]
    standings[0].add([0.1, 0.9, 0.9], [0.1, 0.9, 0.9])
    standings[1].add([0.2, 0.6], [0.2, 0.6])

    cuts = cut_at([0.4, 0.41, 0.6, 1.0], standings)

    assert cuts.kept.tolist() == [[2, 2, 3], [0, 1, 2]]
    assert (np.diff(cuts.values) < 0).all()


def test_mismatched_pairs_are_expected_by_the_clean_probabilities():
    counts = ScoreCounts("corrected_similarity")
    counts.add([0.2, 0.6, 0.9], [0.5, 0.75, 1.0])

    assert counts.expected_mismatched(counts.cutoffs([0.1, 0.6, 1.0])).tolist() == [0, 0.25, 0.75]
