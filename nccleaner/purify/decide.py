"""Decisions, and what the scores alone tell of a cut-off: exactly how many pairs it keeps.

In: scores, shard by shard. Out: a `Decision`; `Cuts` with their counts. Nothing here grows with the
number of pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from nccleaner.purify.shares import Floats

Column = Literal["corrected_similarity", "clean_probability", "similarity"]
Rule = Literal["threshold", "keep_fraction", "target_precision", "meta_prior"]
Counts = npt.NDArray[np.int64]

# Every bin's edge is a float32, so that a cut-off at one divides scores as their bins do.
_BINS = 2**18


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


class ScoreCounts:
    """Counts scores that come in portions, in a quarter of a million bins.

    Args:
        column: The score.
    """

    def __init__(self, column: Column) -> None:
        self._low = -1.0 if column == "similarity" else 0.0
        self._counts = np.zeros(_BINS, dtype=np.int64)
        self._mismatched: Floats = np.zeros(_BINS)

    def add(self, scores: npt.ArrayLike, clean_probability: npt.ArrayLike) -> None:
        """Counts a portion.

        Args:
            scores: [n].
            clean_probability: [n], of the same pairs.
        """
        bins = self._bins(scores)
        # In place: a portion falls into few of the bins.
        np.add.at(self._counts, bins, 1)
        np.add.at(self._mismatched, bins, 1 - np.asarray(clean_probability, dtype=np.float64))

    def __add__(self, other: ScoreCounts) -> ScoreCounts:
        both = object.__new__(ScoreCounts)
        both._low, both._counts = self._low, self._counts + other._counts
        both._mismatched = self._mismatched + other._mismatched
        return both

    @property
    def total(self) -> int:
        """How many scores were counted."""
        return int(self._counts.sum())

    def cutoffs(self, shares: Sequence[float]) -> Floats:
        """Returns cut-offs that keep about these shares of what was counted, each in [0, 1].

        They lie between bins, so that `at_least` is exact for them; equal scores are kept or
        dropped together.
        """
        from_top = np.cumsum(self._counts[::-1])  # pairs in the highest bins, by how many bins
        wanted = np.asarray(shares) * from_top[-1]
        more = np.searchsorted(from_top, wanted).clip(max=_BINS - 1)
        less = (more - 1).clip(min=0)
        nearer = np.where(wanted - from_top[less] < from_top[more] - wanted, less, more)
        # Of bins with nothing between them the lowest.
        lowest = _BINS - np.searchsorted(from_top, from_top[nearer], side="right")
        edges: Floats = self._low + (1 - self._low) * lowest.clip(min=0) / _BINS
        return edges

    def at_least(self, cutoffs: npt.ArrayLike) -> Counts:
        """Counts the scores that reach each of several cut-offs that `cutoffs` gave, [c]."""
        above: Counts = np.cumsum(self._counts[::-1])[::-1][self._bins(cutoffs)]
        return above

    @property
    def mismatched(self) -> float:
        """How many of all are mismatched by their clean probabilities."""
        return float(self._mismatched.sum())

    def expected_mismatched(self, cutoffs: npt.ArrayLike) -> Floats:
        """Returns how many of those are mismatched by their clean probabilities, [c]."""
        above: Floats = np.cumsum(self._mismatched[::-1])[::-1][self._bins(cutoffs)]
        return above

    def _bins(self, scores: npt.ArrayLike) -> Counts:
        place = (np.asarray(scores, dtype=np.float64) - self._low) / (1 - self._low)
        bins: Counts = np.clip((place * _BINS).astype(np.int64), 0, _BINS - 1)
        return bins


class Cuts(NamedTuple):
    """Cut-offs with what they keep of the pairs that nobody labelled.

    Attributes:
        values: [c], in the range of the score.
        kept: [s, c], pairs of each standing that reach them.
    """

    values: Floats
    kept: Counts


class Grid(NamedTuple):
    """Cut-offs with what is believed of the pairs that they keep.

    Attributes:
        cuts: The cut-offs, the strictest first; the last keeps all pairs.
        believed: [s, c], how many mismatched pairs reach them by the clean probabilities.
    """

    cuts: Cuts
    believed: Floats


def cut_at(shares: Sequence[float], standings: Sequence[ScoreCounts]) -> Cuts:
    """Returns different cut-offs that keep about these shares of all pairs, the strictest first."""
    everything = sum(standings[1:], start=standings[0])
    values = np.unique(everything.cutoffs(shares))[::-1]
    return Cuts(values, np.stack([counts.at_least(values) for counts in standings]))


def grid_of(standings: Sequence[ScoreCounts], *, steps: int) -> Grid:
    """Returns cut-offs that keep equal steps of all pairs, or fewer where many scores are equal."""
    cuts = cut_at([step / steps for step in range(1, steps + 1)], standings)
    return Grid(cuts, np.stack([counts.expected_mismatched(cuts.values) for counts in standings]))


class Known(NamedTuple):
    """Pairs of the shards that a person labelled; no cut-off decides about them.

    Attributes:
        matched: Labelled 1: kept whatever their scores.
        mismatched: Labelled 0: dropped.
    """

    matched: int
    mismatched: int
