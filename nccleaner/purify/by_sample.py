"""Cut-offs judged by a random sample of the shards with labels 0 and 1 (METHOD 4).

Shares of the sample are what they are among all pairs but for chance, which exact bounds cover.
Nothing is assumed of the scores, of how the mismatched pairs came about or of the noise rate. No
pair of the sample may have taken part in a fit as a trusted one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nccleaner.purify.decide import Cuts, Grid, Known
from nccleaner.purify.prices import Price
from nccleaner.purify.shares import LEVEL, Floats, Interval, exact_interval, highest_share


class BySample:
    """Prices and bounds from a labelled random sample.

    Args:
        scores: [n], of the column that is cut; at least one pair.
        matched: [n], the labels.
        pairs: How many pairs nobody labelled.
        known: Pairs that a person labelled, those of the sample among them.
    """

    def __init__(
        self,
        scores: npt.NDArray[np.float32],
        matched: npt.NDArray[np.bool_],
        *,
        pairs: int,
        known: Known,
    ) -> None:
        self.labelled = len(scores)
        self._scores = scores
        self._matched = matched
        self._pairs = pairs
        self._known = known

    def prices(self, cuts: Cuts) -> list[Price]:
        """Estimates what each cut-off costs: shares of the sample, and of what else is known."""
        known = self._known
        noise = exact_interval(int((~self._matched).sum()), self.labelled)
        before = _mixed(noise, self._pairs, known.mismatched, sum(known))
        matched = self._pairs * (1 - noise.value)
        prices = []
        for reach, unlabelled in zip(self._reach(cuts).T, cuts.kept.sum(axis=0), strict=True):
            after = recall = None
            if reach.any() or not unlabelled:
                wrong = (
                    exact_interval(int((reach & ~self._matched).sum()), int(reach.sum()))
                    if reach.any()
                    else Interval(0.0, 0.0, 0.0)
                )
                if unlabelled + known.matched:
                    after = _mixed(wrong, int(unlabelled), 0, known.matched)
            if self._matched.any():
                found = exact_interval(int((reach & self._matched).sum()), int(self._matched.sum()))
                recall = _mixed(found, matched, known.matched, known.matched)
            prices.append(Price(before, after, recall))
        return prices

    def mismatched(self, cuts: Cuts) -> Floats:
        """Counts the mismatched pairs of the sample that reach each cut-off, [1, c]."""
        counts: Floats = self._reach(cuts)[~self._matched].sum(axis=0, keepdims=True).astype(float)
        return counts

    def expected(self, grid: Grid) -> Floats:
        """Returns how many mismatched pairs of the sample should reach each cut-off, [1, c]."""
        kept = grid.cuts.kept.sum(axis=0)
        reached = self._reach(grid.cuts).sum(axis=0, keepdims=True)
        expected: Floats = reached * grid.believed.sum(axis=0) / np.maximum(kept, 1)
        return expected

    def grows(self) -> npt.NDArray[np.bool_]:
        """Tells that more labels would mean more mismatched pairs, [1, 1]."""
        return np.ones((1, 1), dtype=np.bool_)

    def bounds(self, cuts: Cuts, mismatched: Floats, *, times: float = 1.0) -> Floats:
        """Returns for each cut-off what the precision is at least, [c] in [0, 1].

        That is of the pairs that nobody labelled; the others are kept only if they are matched.
        Each alone holds with a probability of `LEVEL`.

        Args:
            cuts: The cut-offs.
            mismatched: [1, c], as `mismatched` counts them.
            times: Supposes that the sample is so many times as large, and its shares the same.
        """
        reached = self._reach(cuts).sum(axis=0)
        bounds: Floats = 1 - highest_share(mismatched[0] * times, reached * times, miss=1 - LEVEL)
        return bounds

    def _reach(self, cuts: Cuts) -> npt.NDArray[np.bool_]:
        """Tells which pairs of the sample reach which cut-off, [n, c]."""
        reach: npt.NDArray[np.bool_] = self._scores[:, None] >= cuts.values.astype(np.float32)
        return reach


def _mixed(share: Interval, of: float, more: int, among: int) -> Interval:
    """The share of `of` pairs, after `among` pairs joined them of which `more` have it."""
    low, value, high = (
        (of * end + more) / max(of + among, 1e-9) for end in (share.low, share.value, share.high)
    )
    return Interval(value, low, high)
