"""From corrected similarities to clean probabilities [O]."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float32]

# However few pairs are mismatched, evidence can still convince.
_MIN_RATE = 1e-3


@dataclass(frozen=True, slots=True)
class Posterior:
    """How likely a pair of corrected similarity s is matched: odds e^a (s / (1 − s))^b.

    Attributes:
        intercept: a.
        slope: b in (0, 1]; 1 by Bayes' rule.
    """

    intercept: float
    slope: float = 1.0

    @staticmethod
    def by_bayes(rate: float) -> Posterior:
        """Makes that of a share of mismatched pairs, in [0, 1], that are like exchanged ones."""
        rate = bounded(rate)
        return Posterior(math.log((1 - rate) / rate))

    def __call__(self, corrected: npt.ArrayLike) -> Scores:
        """Returns clean probabilities, [n] in [0, 1]."""
        values = np.asarray(corrected, dtype=np.float64)
        matched = math.exp(self.intercept) * values**self.slope
        probability: Scores = (matched / (matched + (1 - values) ** self.slope)).astype(np.float32)
        return probability

    def corrected_at(self, clean_probability: float) -> float:
        """Returns the corrected similarity of a clean probability, both in [0, 1]."""
        matched = (clean_probability / math.exp(self.intercept)) ** (1 / self.slope)
        mismatched = (1 - clean_probability) ** (1 / self.slope)
        return float(matched / (matched + mismatched))


def bounded(rate: float) -> float:
    """Returns a share of mismatched pairs, in [0, 1], as near to it as Bayes' rule takes it."""
    return min(max(rate, _MIN_RATE), 1 - _MIN_RATE)
