"""The lowest cut-off whose kept pairs are as often matched as asked for, with a bound that holds.

Learn-then-Test (Angelopoulos et al. 2021): cut-offs from a grid that the labels had no part in are
tested one after the other, from the strictest on, until one fails. As the order is fixed, each may
miss with the whole probability that the bound leaves, and still the cut-off that is chosen misses
with no more than that.

No bound says much of a cut-off that hardly a pair reaches, so that testing begins further down [O]:
where the bound would be highest if the labelled pairs were as the clean probabilities say. Whether
they are matched is not looked at for that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from nccleaner.purify.decide import Cuts, Grid, ScoreCounts, grid_of
from nccleaner.purify.prices import Price
from nccleaner.purify.shares import Floats

_STEPS = 100
_MOST_TIMES = 2.0**20
_PRECISELY = 1.01


class Witness(Protocol):
    """What says which of the kept pairs are mismatched: `ByTrusted` or `BySample`."""

    labelled: int

    def prices(self, cuts: Cuts) -> list[Price]:
        """Estimates what each cut-off costs."""

    def mismatched(self, cuts: Cuts) -> Floats:
        """Counts the labelled mismatched pairs that reach each cut-off, [s, c]."""

    def expected(self, grid: Grid) -> Floats:
        """Returns how many it would count by what is believed of all pairs, [s, c]."""

    def grows(self) -> npt.NDArray[np.bool_]:
        """Tells whether more labels would mean more labelled mismatched pairs, [s, 1]."""

    def bounds(self, cuts: Cuts, mismatched: Floats, *, times: float = 1.0) -> Floats:
        """Returns for each cut-off what the precision is at least, [c]."""


class Promise(NamedTuple):
    """A cut-off that keeps what it promises.

    Attributes:
        cutoff: The cut-off.
        bound: What the precision is at least.
    """

    cutoff: float
    bound: float


class Refusal(NamedTuple):
    """No cut-off can promise what was asked for.

    Attributes:
        labelled: How many labelled pairs there are.
        best: The precision that they show at the cut-off where testing begins.
        needed: How many would do if they are judged like those that are there; None if no number
            would.
    """

    labelled: int
    best: float
    needed: int | None


def promise_precision(
    witness: Witness, standings: Sequence[ScoreCounts], target: float
) -> Promise | Refusal:
    """Finds the lowest cut-off that passes.

    Args:
        witness: What is known.
        standings: Scores of the pairs that nobody labelled.
        target: Share of the kept pairs that must be matched, in (0, 1).
    """
    grid = grid_of(standings, steps=_STEPS)
    cuts = grid.cuts
    start = int(np.argmax(witness.bounds(cuts, witness.expected(grid))))
    mismatched = witness.mismatched(cuts)
    bounds = witness.bounds(cuts, mismatched)
    if bounds[start] < target:
        # Where one would pass had testing begun there, only the start can say what is missing. Half
        # a pair more than was seen keeps luck with few pairs out of the number, if that can do.
        places = slice(start, start + 1) if (bounds >= target).any() else slice(None)
        needed = _needed(witness, cuts, mismatched + 0.5 * witness.grows(), target, places)
        if needed is None:
            needed = _needed(witness, cuts, mismatched, target, places)
        return Refusal(witness.labelled, float(bounds[start]), needed)
    passes = bounds[start:] >= target
    lowest = start + (len(passes) if passes.all() else int(np.argmin(passes))) - 1
    return Promise(float(cuts.values[lowest]), float(bounds[lowest]))


def _needed(
    witness: Witness, cuts: Cuts, mismatched: Floats, target: float, places: slice
) -> int | None:
    """How many labelled pairs would do at one of the places: doubled, then narrowed down."""

    def would_do(times: float) -> bool:
        bounds = witness.bounds(cuts, mismatched, times=times)[places]
        return bool((bounds >= target).any())

    enough = 2.0
    while not would_do(enough):
        enough *= 2
        if enough > _MOST_TIMES:
            return None
    too_few = enough / 2
    while enough / too_few > _PRECISELY:
        middle = math.sqrt(too_few * enough)
        too_few, enough = (too_few, middle) if would_do(middle) else (middle, enough)
    return math.ceil(enough * witness.labelled)
