"""The last layer of the meta network on all the evidence: a, b of s = σ(a·e + b).

Its weights come from trusted pairs that stood where the judged pairs stand: in the pool for pairs
of the pool, outside it for others (METHOD 2 and 4) [O].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nccleaner.purify.shares import Floats

Folds = npt.NDArray[np.int64]

_FOLDS = 10

# Strength of the pull towards the prior's proportions, in labelled pairs. A few dozen pairs cannot
# tell correlated kinds of evidence apart; several hundred can.
_PULL = 1.0
# Likewise, of the pull of the belief's weight towards what takes the echo off the others.
_PULL_BELIEF = 2.0
# Keeps weights finite where pairs are told apart without error.
_PULL_TO_NOTHING = 0.05
# Pairs that are hardly believed do not show what belief does.
_LITTLE_BELIEF = 0.1


class Prior(NamedTuple):
    """What weights are drawn towards, until labelled pairs say otherwise.

    Attributes:
        proportions: [k], positive, of the weights of kinds that speak for a match.
        echo: [k], not negative: by how much the evidence of each of these kinds is higher for a
            pair that training wholly believed than for one that it did not believe, for that
            reason alone. The first kind of evidence, before these, is then the belief, in [0, 1],
            whose weight may not be positive. None: there is no belief.
    """

    proportions: Floats
    echo: Floats | None = None

    @staticmethod
    def equal(kinds: int) -> Prior:
        """Expects as much of every kind."""
        return Prior(np.ones(kinds))

    def beside(self, proportion: float) -> Prior:
        """Returns the prior with one more kind, the last, which does not echo."""
        echo = None if self.echo is None else np.append(self.echo, 0.0)
        return Prior(np.append(self.proportions, proportion), echo)


def measure_echo(told: npt.ArrayLike, belief: npt.ArrayLike, untold: npt.ArrayLike) -> Floats:
    """Measures by how much training raises the evidence of a pair because it believed it.

    Both are trusted matched pairs: what sets them apart is that training saw the one and not the
    other.

    Args:
        told: [n, k], evidence of pairs that training took for pairs of the pool.
        belief: [n] in [0, 1], how much it believed each.
        untold: [m, k], of pairs that it never saw.

    Returns:
        [k], as `Prior` takes it; 0 where nothing is known.
    """
    seen, unseen = (np.asarray(rows, dtype=np.float64) for rows in (told, untold))
    if not len(seen) or not len(unseen):
        return np.zeros(seen.shape[1])
    believed = float(np.asarray(belief, dtype=np.float64).mean())
    if believed < _LITTLE_BELIEF:
        return np.zeros(seen.shape[1])
    echo: Floats = np.maximum(seen.mean(axis=0) - unseen.mean(axis=0), 0) / believed
    return echo


@dataclass(frozen=True, slots=True)
class EvidenceHead:
    """A logistic model over kinds of evidence.

    Attributes:
        mean: [e], what is taken off each kind of evidence.
        scale: [e], what it is then divided by.
        weights: [e], not negative, but not positive of the belief.
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
        prior: Prior,
        weights: Floats | None = None,
    ) -> EvidenceHead:
        """Fits to labelled pairs; both labels weigh the same.

        Penalised maximum likelihood. Weights are not negative, since kinds of evidence are higher
        for matched pairs, and are drawn towards the prior's proportions. That of the belief is not
        positive, and is drawn to where it takes the echo of the belief off the others.

        Args:
            evidence: [n, e].
            matched: [n] bool, at least one of each.
            mean: [e], of the evidence over the pool.
            scale: [e], its standard deviation there, positive. Of the belief both are 0.5.
            prior: Of e kinds, or of e - 1 and the belief.
            weights: [n], positive, of pairs beside others of their label; None: all the same.
        """
        standard = (np.asarray(evidence, dtype=np.float64) - mean) / scale
        label = np.asarray(matched, dtype=bool)
        share = balanced(label, weights)
        sign = np.where(label, 1.0, -1.0)
        proportions = prior.proportions
        heard = 0 if prior.echo is None else 1
        echo = np.zeros(0) if prior.echo is None else prior.echo * scale[0] / scale[1:]

        def objective(parameters: Floats) -> tuple[float, Floats]:
            weights, bias = parameters[:-1], parameters[-1]
            margin = sign * (standard @ weights + bias)
            speaking = weights[heard:]
            common = speaking @ proportions / (proportions @ proportions)
            apart = speaking - common * proportions
            loss = share @ np.logaddexp(0, -margin)
            loss += _PULL * apart @ apart + _PULL_TO_NOTHING * speaking @ speaking
            slope = -share * sign / (1 + np.exp(np.clip(margin, -500, 500)))
            gradient = standard.T @ slope
            gradient[heard:] += 2 * _PULL * apart + 2 * _PULL_TO_NOTHING * speaking
            if heard:
                left = weights[0] + echo @ speaking
                loss += _PULL_BELIEF * left**2
                gradient[0] += 2 * _PULL_BELIEF * left
                gradient[1:] += 2 * _PULL_BELIEF * left * echo
            return float(loss), np.append(gradient, slope.sum())

        start = np.concatenate([np.zeros(heard), 0.5 * proportions, [0.0]])
        bounds = [(None, 0.0)] * heard + [(0.0, None)] * len(proportions) + [(None, None)]
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


def balanced(matched: npt.NDArray[np.bool_], weights: Floats | None = None) -> Floats:
    """Returns weights by which both labels are as heavy; their sum stays as it is.

    Args:
        matched: [n], at least one of each.
        weights: [n]; None: 1 each.
    """
    own = np.ones(len(matched)) if weights is None else weights
    halves = np.where(matched, 0.5 / own[matched].sum(), 0.5 / own[~matched].sum())
    balance: Floats = own * halves * own.sum()
    return balance


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
    prior: Prior,
    weights: Floats | None = None,
) -> Floats:
    """Scores labelled pairs by heads that were fitted without them.

    A head judges the pairs that it learned from too well; estimates that rest on them need this.

    Args:
        evidence: [n, e].
        matched: [n] bool, at least two of each.
        mean: [e], of the pool.
        scale: [e], of the pool.
        folds: [n], as `stratified_folds` gives them; -1 of pairs that all heads may learn from.
        prior: Of the kinds of evidence.
        weights: As in `EvidenceHead.fit`.

    Returns:
        Corrected similarities in (0, 1) of the pairs that have a fold, in order.
    """
    rows = np.asarray(evidence, dtype=np.float64)
    scores = np.empty(len(rows))
    for fold in np.unique(folds[folds >= 0]):
        inside = folds == fold
        head = EvidenceHead.fit(
            rows[~inside],
            matched[~inside],
            mean=mean,
            scale=scale,
            prior=prior,
            weights=None if weights is None else weights[~inside],
        )
        scores[inside] = head(rows[inside])
    return scores[folds >= 0]
