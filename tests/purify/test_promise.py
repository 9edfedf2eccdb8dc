"""Promises of precision: kept as often as said, found where they can be, refused elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nccleaner.purify.by_sample import BySample
from nccleaner.purify.by_trusted import ByTrusted, Standing
from nccleaner.purify.decide import Known, ScoreCounts, cut_at
from nccleaner.purify.judge import Judge, Labelled
from nccleaner.purify.noise import CUTOFF, NoiseRate
from nccleaner.purify.promise import Refusal, promise_precision

PAIRS = 5000
HUNDREDTHS = [step / 100 for step in range(1, 101)]
TARGET = 0.9
NOBODY = Known(0, 0)


def draw(matched, rng):
    """Scores: two Beta distributions that overlap."""
    scores = np.where(matched, rng.beta(5, 1.2, len(matched)), rng.beta(1.2, 4, len(matched)))
    return scores.astype(np.float32)


def shares_passing(rng, truth, trusted):
    """The noise rate's three shares, from scores of its own."""
    kinds = (truth, np.ones(trusted, bool), np.zeros(trusted, bool))
    return [float((draw(kind, rng) >= CUTOFF).mean()) for kind in kinds]


def count(scores):
    """Counts of scores that are roughly believed."""
    counts = ScoreCounts("corrected_similarity")
    counts.add(scores, scores)
    return counts


def simulate(source, seed, *, labelled=200):
    """A pool of a noise rate of its own, and what is known of it."""
    rng = np.random.default_rng(seed)
    truth = rng.random(PAIRS) > rng.uniform(0.1, 0.5)
    scores = draw(truth, rng)
    counts = count(scores)
    if source == "random sample":
        drawn = rng.choice(PAIRS, labelled, replace=False)
        witness = BySample(scores[drawn], truth[drawn], pairs=PAIRS, known=NOBODY)
    else:
        matched = np.arange(labelled) % 2 == 0
        known = draw(matched, rng)
        noise = None
        if source == "noise rate of its own":
            noise = NoiseRate(*shares_passing(rng, truth, 2 * labelled), 2 * labelled)
        judge = Judge((), (), False, 0.0, noise, Labelled(matched, known, known, known))
        standing = Standing(judge, PAIRS, float((scores >= CUTOFF).mean()), counts)
        witness = ByTrusted(
            "corrected_similarity", [standing], known=NOBODY, labelled=labelled, seed=seed
        )
    return witness, [counts], scores, truth


def precision(scores, truth, cutoff):
    return truth[scores >= np.float32(cutoff)].mean()


@pytest.mark.parametrize("source", ["random sample", "trusted pairs", "noise rate of its own"])
def test_promises_are_broken_no_more_often_than_said(source):
    sets = 300
    broken = by_estimate = given = 0
    for seed in range(sets):
        witness, standings, scores, truth = simulate(source, seed)
        found = promise_precision(witness, standings, TARGET)
        given += not isinstance(found, Refusal)
        if not isinstance(found, Refusal):
            assert found.bound >= TARGET
            broken += precision(scores, truth, found.cutoff) < TARGET
        if seed < 50:  # for contrast: the lowest cut-off whose estimate reaches the target
            cuts = cut_at(HUNDREDTHS, standings)
            estimates = [price.after for price in witness.prices(cuts)]
            fine = [after is not None and 1 - after.value >= TARGET for after in estimates]
            lowest = cuts.values[np.flatnonzero(fine).max()]
            by_estimate += precision(scores, truth, lowest) < TARGET

    assert broken <= sets * 0.05 + 3 * math.sqrt(sets * 0.05 * 0.95)
    assert given >= 0.9 * sets, "a rule that refuses promises nothing"
    assert by_estimate > 5, "estimates alone would do"


def test_the_cut_off_is_the_last_that_passes_before_one_fails():
    witness, standings, _, _ = simulate("random sample", 1)
    cuts = cut_at(HUNDREDTHS, standings)
    bounds = witness.bounds(cuts, witness.mismatched(cuts))

    found = promise_precision(witness, standings, TARGET)

    place = int(np.flatnonzero(cuts.values == found.cutoff)[0])
    assert found.bound == bounds[place] >= TARGET > bounds[place + 1]


def test_a_cut_off_that_passes_after_one_has_failed_is_not_taken():
    scores = np.linspace(0.001, 0.999, 1000).astype(np.float32)
    matched = np.ones(1000, bool)
    matched[700:730] = False  # the kept are worst there, and better again below
    witness = BySample(scores, matched, pairs=1000, known=NOBODY)
    cuts = cut_at([1.0], [count(scores)])

    found = promise_precision(witness, [count(scores)], 0.93)

    assert witness.bounds(cuts, witness.mismatched(cuts)) >= 0.93, "keeping all would do by itself"
    assert found.cutoff > 0.7


@pytest.mark.parametrize("source", ["random sample", "trusted pairs"])
def test_a_higher_target_keeps_fewer(source):
    witness, standings, _, _ = simulate(source, 2, labelled=2000)

    found = [promise_precision(witness, standings, target).cutoff for target in (0.8, 0.9, 0.95)]

    assert found == sorted(found)
    assert found[0] < found[-1]


def clean_sample(size, target=0.95):
    """A promise by a sample of which no pair is mismatched nor believed to be."""
    scores = np.linspace(0.001, 0.999, size).astype(np.float32)
    counts = ScoreCounts("corrected_similarity")
    counts.add(scores, np.ones(size))
    witness = BySample(scores, np.ones(size, bool), pairs=size, known=NOBODY)
    return promise_precision(witness, [counts], target)


def test_a_refusal_says_how_many_would_do():
    # 0.95^59 < 0.05 <= 0.95^58: of so many none may be mismatched.
    refusal = clean_sample(40)

    assert isinstance(refusal, Refusal)
    assert refusal.labelled == 40
    assert 80 <= refusal.needed <= 120, "half a mismatched pair among 40 is supposed"
    assert refusal.best == pytest.approx(0.05 ** (1 / 40))
    assert isinstance(clean_sample(58), Refusal)
    assert clean_sample(60).bound == pytest.approx(0.05 ** (1 / 60))


@pytest.mark.parametrize("source", ["random sample", "trusted pairs"])
def test_with_about_so_many_promises_become_common(source):
    def promises(labelled):
        found = (
            promise_precision(*simulate(source, seed, labelled=labelled)[:2], 0.95)
            for seed in range(20, 40)
        )
        return sum(not isinstance(item, Refusal) for item in found)

    refusal = promise_precision(*simulate(source, 3, labelled=60)[:2], 0.95)

    assert promises(refusal.needed // 4) <= 5
    assert promises(refusal.needed * 2) >= 12


def test_a_target_beyond_half_a_pair_is_counted_with_what_was_seen():
    # 0.999^2995 < 0.05; half a mismatched pair among 40 would rule the target out.
    refusal = clean_sample(40, target=0.999)

    assert 2995 <= refusal.needed <= 2995 * 1.02


def test_where_more_pairs_would_not_help_that_is_said():
    scores = np.repeat(np.float32([0.2, 0.7]), 200)
    witness = BySample(scores, np.arange(400) % 2 == 0, pairs=400, known=NOBODY)

    refusal = promise_precision(witness, [count(scores)], 0.95)

    assert refusal.needed is None
    assert refusal.best < 0.6
