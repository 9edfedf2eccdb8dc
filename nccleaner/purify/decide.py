"""Decisions: cut-offs from histograms of scores, and what a cut-off costs, with intervals.

In: scores, shard by shard. Out: a `Decision` and its price. Nothing here grows with the number of
pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from nccleaner.purify.judge import Judge
from nccleaner.purify.mixture import BINS, Floats, share_at_least
from nccleaner.purify.noise import CUTOFF, solve_rate

Column = Literal["corrected_similarity", "clean_probability", "similarity"]
Rule = Literal["threshold", "keep_fraction", "meta_prior"]

LEVEL = 0.95
_FINE_BINS = 2**20
_DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Decision:
    """Keep the pairs whose `column` is at least `cutoff`.

    Attributes:
        column: The score that is compared.
        cutoff: In that score's range.
        rule: What chose it.
    """

    column: Column
    cutoff: float
    rule: Rule

    def keeps(self, scores: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Tells which of the scores of `column` are kept."""
        kept: npt.NDArray[np.bool_] = np.asarray(scores, dtype=np.float32) >= np.float32(
            self.cutoff
        )
        return kept


def meta_prior_decision() -> Decision:
    """The rule of the paper: keep `clean_probability` > 0.5 [P]."""
    just_above = float(np.nextafter(np.float32(0.5), np.float32(1)))
    return Decision("clean_probability", just_above, "meta_prior")


class FractionFinder:
    """Finds the cut-off that keeps a share of all pairs, from scores that come in portions.

    A fine histogram over the scores' range; ties and the width of a bin (a millionth of the range)
    decide how near the share comes.

    Args:
        column: The score.
    """

    def __init__(self, column: Column) -> None:
        self._column = column
        self._low = -1.0 if column == "similarity" else 0.0
        self._counts = np.zeros(_FINE_BINS, dtype=np.int64)

    def add(self, scores: npt.ArrayLike) -> None:
        """Counts a portion."""
        place = (np.asarray(scores, dtype=np.float64) - self._low) / (1 - self._low)
        bins = np.clip((place * _FINE_BINS).astype(np.int64), 0, _FINE_BINS - 1)
        self._counts += np.bincount(bins, minlength=_FINE_BINS)

    def decision(self, fraction: float) -> Decision:
        """Returns the decision that keeps about `fraction` of what was added, in (0, 1]."""
        above = np.cumsum(self._counts[::-1])[::-1]  # pairs in this bin or a higher one
        lowest = int(np.argmin(np.abs(above - fraction * above[0])))
        cutoff = self._low + (1 - self._low) * lowest / _FINE_BINS
        return Decision(self._column, cutoff, "keep_fraction")


class Interval(NamedTuple):
    """An estimated share in [0, 1] with its 95 % interval."""

    value: float
    low: float
    high: float


class Price(NamedTuple):
    """What a decision does, as far as can be known.

    Attributes:
        before: Share of mismatched pairs among all.
        after: Share of mismatched pairs among the kept; None where none is kept.
        lost: Share of the matched pairs that are dropped.
    """

    before: Interval
    after: Interval | None
    lost: Interval


class Standing(NamedTuple):
    """The pairs of one standing.

    Attributes:
        judge: Their judge.
        scores: Histogram of their corrected similarities.
        pairs: How many they are.
    """

    judge: Judge
    scores: Floats
    pairs: int


def empty_histogram() -> Floats:
    """Returns a histogram of nothing."""
    return np.zeros(BINS)


def price(decision: Decision, standings: Sequence[Standing], *, seed: int) -> Price:
    """Estimates what a decision costs, from the labelled pairs of the judges (METHOD 4) [O].

    Values come from the noise rates and from how many labelled pairs pass the cut-off. Intervals
    come from the labelled pairs alone, which limit what can be known: in every draw the shares of
    matched and of mismatched pairs that pass are drawn from their posterior under Jeffreys' prior.
    The noise rate is drawn likewise, by the judge's own estimate of it or, without one, as what
    makes those shares agree with the share of all pairs that pass.

    Args:
        decision: What is priced.
        standings: Fitted and unseen pairs; together at least one pair.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    used = [standing for standing in standings if standing.pairs]
    total = sum(standing.pairs for standing in used)
    points, draws = np.zeros(4), np.zeros((_DRAWS, 4))
    for standing in used:
        share = standing.pairs / total
        labelled = standing.judge.labelled
        passes = np.stack(
            [
                decision.keeps(labelled.column(decision.column)),
                labelled.corrected_similarity >= CUTOFF,
            ],
            axis=1,
        )
        good, bad = passes[labelled.matched], passes[~labelled.matched]
        noise, passing = standing.judge.noise, share_at_least(standing.scores, CUTOFF)
        rate = (
            noise.value
            if noise
            else float(solve_rate(passing, good[:, 1].mean(), bad[:, 1].mean()))
        )
        points += (
            share
            * _masses(
                np.array([rate]),
                *(np.array([(x[:, 0].sum() + 0.5) / (len(x) + 1)]) for x in (good, bad)),
            )[0]
        )
        good_pass, bad_pass = (_pass_draws(x, rng) for x in (good, bad))
        if noise:
            rates = noise.draws(_DRAWS, rng)
        else:
            rates = np.asarray(solve_rate(passing, good_pass[:, 1], bad_pass[:, 1]))
        draws += share * _masses(rates, good_pass[:, 0], bad_pass[:, 0])
    before, after, lost = (_interval(points, draws, part) for part in _PARTS)
    assert before is not None
    return Price(before, after, lost or Interval(0.0, 0.0, 1.0))


def _pass_draws(passes: npt.NDArray[np.bool_], rng: np.random.Generator) -> Floats:
    """Draws the shares of pairs that pass each of several cut-offs, [n, c] → [draws, c].

    A Bayesian bootstrap with half a pair added that passes and half a pair that does not: for one
    cut-off exactly Jeffreys' posterior, for several their joint one.
    """
    weights = rng.gamma(1.0, size=(_DRAWS, len(passes)))
    added = rng.gamma(0.5, size=(_DRAWS, 2))
    total = weights.sum(axis=1) + added.sum(axis=1)
    drawn: Floats = (weights @ passes + added[:, :1]) / total[:, None]
    return drawn


# Of [matched kept, mismatched kept, matched, mismatched]: numerator and denominator.
_PARTS = (
    (np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])),
    (np.array([0, 1, 0, 0]), np.array([1, 1, 0, 0])),
    (np.array([-1, 0, 1, 0]), np.array([0, 0, 1, 0])),
)


def _masses(rate: Floats, good_pass: Floats, bad_pass: Floats) -> Floats:
    """Shares of all pairs that are matched and kept, mismatched and kept, matched, mismatched."""
    return np.stack([(1 - rate) * good_pass, rate * bad_pass, 1 - rate, rate], axis=1)


def _interval(
    points: Floats, draws: Floats, part: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
) -> Interval | None:
    over, under = part
    if points @ under < 1e-12:
        return None
    shares = (draws @ over) / np.maximum(draws @ under, 1e-12)
    value = float(points @ over / (points @ under))
    low, high = np.quantile(shares, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(min(low, value)), float(max(high, value)))
