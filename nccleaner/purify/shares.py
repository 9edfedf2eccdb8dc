"""Shares with what is uncertain about them: exact bounds of what was counted (METHOD 4)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LEVEL = 0.95


class Interval(NamedTuple):
    """An estimated share in [0, 1] with its 95 % interval."""

    value: float
    low: float
    high: float

    def complement(self) -> Interval:
        """Returns the share of all others."""
        return Interval(1 - self.value, 1 - self.high, 1 - self.low)


def highest_share(count: npt.ArrayLike, trials: npt.ArrayLike, *, miss: float) -> Floats:
    """Returns the one-sided exact upper bound of a share (Clopper and Pearson 1934).

    The true share is above it with a probability of at most `miss`; without trials it is 1.

    Args:
        count: How many of the trials had it, of any shape; need not be whole.
        trials: How many there were, likewise.
        miss: In (0, 1).
    """
    from scipy.special import betaincinv  # takes longer to load than a purge to decide

    had, tried = np.broadcast_arrays(np.asarray(count, float), np.asarray(trials, float))
    bound = np.ones(had.shape)
    open_ended = had < tried
    bound[open_ended] = betaincinv(
        had[open_ended] + 1, tried[open_ended] - had[open_ended], 1 - miss
    )
    return bound


def exact_interval(count: int, trials: int) -> Interval:
    """Returns a share that was counted, with its two-sided exact 95 % interval.

    Args:
        count: How many of the trials had it.
        trials: How many there were, at least one.
    """
    miss = (1 - LEVEL) / 2
    low = 1 - float(highest_share(trials - count, trials, miss=miss))
    return Interval(count / trials, low, float(highest_share(count, trials, miss=miss)))
