"""How good an index is: recall of the ten nearest against exact search, on a sample.

The exact answers are gathered while the index is filled, so that no vector is read for them again.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

DEPTH = 10
# More exact answers than are asked for: vectors as near as the tenth count as right too. An image
# that is in the data several times has the same vector each time.
_TIES = 64
_TIE = 1e-6
# What two steps of effort must gain in recall for another to be tried.
_NO_GAIN = 0.005


class ExactNearest:
    """The exact answers to some queries, vector block by vector block.

    Args:
        queries: Vectors [q, dim].
    """

    def __init__(self, queries: npt.NDArray[np.float32]) -> None:
        self.queries = queries
        self._products = np.empty((len(queries), 0), np.float32)
        self._rows = np.empty((len(queries), 0), np.int64)
        self._count = 0

    def add(self, vectors: npt.NDArray[np.float32]) -> None:
        """Takes the next n vectors [n, dim] into account."""
        new = np.arange(self._count, self._count + len(vectors))
        products = np.concatenate([self._products, self.queries @ vectors.T], axis=1)
        rows = np.concatenate([self._rows, np.tile(new, (len(self.queries), 1))], axis=1)
        if products.shape[1] > _TIES:
            best = np.argpartition(products, -_TIES, axis=1)[:, -_TIES:]
            products = np.take_along_axis(products, best, 1)
            rows = np.take_along_axis(rows, best, 1)
        self._products, self._rows = products, rows
        self._count += len(vectors)

    def recall(self, found: npt.NDArray[np.int64], *, chosen: slice) -> float:
        """Measures which share of the ten nearest was found, on average.

        Args:
            found: Rows that an index answered to the chosen queries, [q, 10], or fewer where there
                are fewer vectors; -1 for none.
            chosen: Which queries.

        Returns:
            In [0, 1].
        """
        products, rows = self._products[chosen], self._rows[chosen]
        depth = min(DEPTH, self._count)
        least = np.partition(products, -depth, axis=1)[:, -depth, None]
        is_near = products >= least - _TIE
        shares = [
            np.isin(answer[:depth], right[near]).mean()
            for answer, right, near in zip(found, rows, is_near, strict=True)
        ]
        return float(np.mean(shares))


def find_effort(
    search: Callable[[npt.NDArray[np.float32], int], npt.NDArray[np.int64]],
    exact: ExactNearest,
    *,
    efforts: list[int],
    target: float,
) -> tuple[int, float]:
    """Finds the least effort that is enough, and measures its recall on other queries.

    One half of the queries finds, the other measures. Enough is a recall of `target` or, where no
    effort reaches that, one within 0.01 of the best. When two steps have gained next to nothing, no
    more is tried: a step of twice the effort takes twice the time.

    Args:
        search: Answers queries [q, dim] with an effort: rows [q, 10].
        exact: The exact answers to an even number of queries.
        efforts: What to try, ascending.
        target: Recall in [0, 1].

    Returns:
        The effort and its recall.
    """
    tried: list[float] = []
    tuning, measuring = slice(0, None, 2), slice(1, None, 2)
    for effort in efforts:
        tried.append(exact.recall(search(exact.queries[tuning], effort), chosen=tuning))
        if tried[-1] >= target or (len(tried) > 2 and tried[-1] - tried[-3] < _NO_GAIN):
            break
    enough = min(target, max(tried) - 0.01)
    effort = next(
        effort for effort, recall in zip(efforts, tried, strict=False) if recall >= enough
    )
    return effort, exact.recall(search(exact.queries[measuring], effort), chosen=measuring)
