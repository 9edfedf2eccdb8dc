"""The last layer of the meta network on all the evidence: a, b of s = σ(a·e + b).

Its weights come from trusted pairs that stood where the judged pairs stand: in the pool for pairs
of the pool, outside it for others (METHOD 2 and 4) [O].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nccleaner.purify.shares import Floats

Folds = npt.NDArray[np.int64]

_FOLDS = 10

# Strength of the pull towards equal weights, in labelled pairs. A few dozen pairs cannot tell
# correlated kinds of evidence apart; several hundred can.
_PULL = 1.0
# Likewise, of the pull of what speaks against a match towards nothing.
_PULL_AGAINST = 0.5
# Of the others: keeps weights finite where pairs are told apart without error.
_PULL_FOR = 0.05


@dataclass(frozen=True, slots=True)
class EvidenceHead:
    """A logistic model over kinds of evidence.

    Attributes:
        mean: [e], what is taken off each kind of evidence.
        scale: [e], what it is then divided by.
        weights: [e], not negative, but not positive of kinds that speak against a match.
        bias: The intercept.
    """

    mean: Floats
    scale: Floats
    weights: Floats
    bias: float

    @staticmethod
    def fit(
        evidence: npt.ArrayLike,
        matched: npt.ArrayLike,
        *,
        mean: Floats,
        scale: Floats,
        against: int = 0,
    ) -> EvidenceHead:
        """Fits to labelled pairs; both labels weigh the same.

        Penalised maximum likelihood: weights are not negative, since kinds of evidence are
        higher for matched pairs, and are drawn towards their common mean. Those of kinds that
        speak against a match are not positive, and are drawn towards 0.

        Args:
            evidence: [n, e].
            matched: [n] bool, at least one of each.
            mean: [e], of the evidence over the pool.
            scale: [e], its standard deviation there, positive.
            against: So many kinds, the first ones, speak against a match, if they say anything.
        """
        standard = (np.asarray(evidence, dtype=np.float64) - mean) / scale
        label = np.asarray(matched, dtype=bool)
        share = np.where(label, 0.5 / label.sum(), 0.5 / (~label).sum()) * len(label)
        sign = np.where(label, 1.0, -1.0)
        kinds = standard.shape[1] - against
        pull = np.repeat([_PULL_AGAINST, _PULL_FOR], [against, kinds])

        def objective(parameters: Floats) -> tuple[float, Floats]:
            weights, bias = parameters[:-1], parameters[-1]
            margin = sign * (standard @ weights + bias)
            apart = np.zeros_like(weights)
            apart[against:] = weights[against:] - weights[against:].mean()
            loss = (
                share @ np.logaddexp(0, -margin) + _PULL * apart @ apart + pull * weights @ weights
            )
            slope = -share * sign / (1 + np.exp(np.clip(margin, -500, 500)))
            gradient = standard.T @ slope + 2 * _PULL * apart + 2 * pull * weights
            return float(loss), np.append(gradient, slope.sum())

        start = np.concatenate([np.zeros(against), np.full(kinds, 0.5), [0.0]])
        bounds = [(None, 0.0)] * against + [(0.0, None)] * kinds + [(None, None)]
        from scipy.optimize import minimize  # takes longer to load than a purge to decide

        found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds)
        return EvidenceHead(mean, scale, found.x[:-1], float(found.x[-1]))

    def __call__(self, evidence: npt.ArrayLike) -> Floats:
        """Returns corrected similarities in (0, 1) of pairs, [n, e] → [n]."""
        standard = (np.asarray(evidence, dtype=np.float64) - self.mean) / self.scale
        logit: Floats = standard @ self.weights + self.bias
        return 1 / (1 + np.exp(-np.clip(logit, -500, 500)))

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> EvidenceHead:
        """Restores a head from plain data."""
        return EvidenceHead(
            np.array(data["mean"]),
            np.array(data["scale"]),
            np.array(data["weights"]),
            float(data["bias"]),
        )


def stratified_folds(matched: npt.NDArray[np.bool_], rng: np.random.Generator) -> Folds:
    """Deals each label out evenly over ten folds, so that each leaves pairs of both behind."""
    folds = np.empty(len(matched), dtype=np.int64)
    for label in (True, False):
        rows = np.flatnonzero(matched == label)
        folds[rng.permutation(rows)] = np.arange(len(rows)) % _FOLDS
    return folds


def out_of_fold(
    evidence: npt.ArrayLike,
    matched: npt.NDArray[np.bool_],
    *,
    mean: Floats,
    scale: Floats,
    folds: Folds,
    against: int = 0,
) -> Floats:
    """Scores labelled pairs by heads that were fitted without them.

    A head judges the pairs that it learned from too well; estimates that rest on them need this.

    Args:
        evidence: [n, e].
        matched: [n] bool, at least two of each.
        mean: [e], of the pool.
        scale: [e], of the pool.
        folds: [n], as `stratified_folds` gives them.
        against: As in `EvidenceHead.fit`.

    Returns:
        Corrected similarities, [n] in (0, 1).
    """
    rows = np.asarray(evidence, dtype=np.float64)
    scores = np.empty(len(rows))
    for fold in np.unique(folds):
        inside = folds == fold
        head = EvidenceHead.fit(
            rows[~inside], matched[~inside], mean=mean, scale=scale, against=against
        )
        scores[inside] = head(rows[inside])
    return scores
