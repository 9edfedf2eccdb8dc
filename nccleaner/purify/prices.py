"""What a cut-off costs, with intervals: precision, recall, and the noise rate before and after.

Kept pairs are counted; how many of them are mismatched is estimated, here from draws or exactly.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nccleaner.purify.decide import Cuts, Known
from nccleaner.purify.shares import LEVEL, Floats, Interval


class Price(NamedTuple):
    """What a cut-off does, as far as can be known; labelled pairs are counted too.

    Attributes:
        before: Share of mismatched pairs among all.
        after: Share of mismatched pairs among the kept; None where it is not known, or none is
            kept.
        recall: Share of the matched pairs that are kept; None where it is not known.
    """

    before: Interval
    after: Interval | None
    recall: Interval | None


class Masses(NamedTuple):
    """Numbers of mismatched pairs among those that nobody labelled; first the estimate, then draws.

    Attributes:
        mismatched: [1 + draws].
        kept: [1 + draws, c], of the mismatched those that reach each cut-off.
        any_seen: [c], whether a labelled mismatched pair reaches it: if not, none may.
    """

    mismatched: Floats
    kept: Floats
    any_seen: npt.NDArray[np.bool_]


def prices_of(masses: Masses, cuts: Cuts, pairs: int, known: Known) -> list[Price]:
    """Turns numbers into shares with intervals, one price for each cut-off.

    Args:
        masses: Estimated and drawn.
        cuts: The cut-offs, c of them.
        pairs: Pairs that nobody labelled.
        known: The others.
    """
    total = pairs + sum(known)
    before = _interval((masses.mismatched + known.mismatched) / total)
    matched = pairs - masses.mismatched + known.matched
    prices = []
    for unlabelled, mismatched, any_seen in zip(
        cuts.kept.sum(axis=0), masses.kept.T, masses.any_seen, strict=True
    ):
        kept = int(unlabelled) + known.matched
        after = _interval(mismatched / kept) if kept else None
        if after and not any_seen:
            after = after._replace(low=0.0)
        found = (kept - mismatched) / np.maximum(matched, 1e-9)
        prices.append(Price(before, after, _interval(found) if matched[0] > 0 else None))
    return prices


def _interval(shares: Floats) -> Interval:
    """The first is the estimate, the others are draws; only rounding takes one out of [0, 1]."""
    value, *draws = np.clip(shares, 0, 1)
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(value), float(min(low, value)), float(max(high, value)))
