"""From corrected similarities to clean probabilities, and what the pool itself says of them [O].

Judges learn from exchanged captions what a mismatch looks like. Captions that are nearly right look
otherwise, and Bayes' rule takes them for matched. Matched probes and the pool say how likely pairs
are matched without a single mismatched one: of all logistic posteriors the likeliest is that by
which pairs drawn from the pool, each with its clean probability, are most like the matched probes.
Where it is far likelier than Bayes' rule, the pool holds pairs of which the exchanged ones tell
nothing.

D. Steinberg, N. S. Cardell, "Estimating logistic regression models when the dependent variable has
no variance", Communications in Statistics 1992; T. Lancaster, G. Imbens, "Case-control studies with
contaminated controls", Journal of Econometrics 1996; G. Ward et al., "Presence-only data and the EM
algorithm", Biometrics 2009.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nccleaner.purify.shares import Floats

Scores = npt.NDArray[np.float32]

# However few pairs are mismatched, evidence can still convince.
_MIN_RATE = 1e-3
# Fewer matched probes say little of the shape of a posterior.
_MIN_MATCHED = 40
# Of the difference of two log-likelihoods; by chance about one pool in 100 is above.
_TOO_MUCH = 4.6
# Near misses make a posterior flatter, never steeper.
_SLOPES = (0.2, 1.0)
_INTERCEPTS = (-15.0, 15.0)
_QUANTILES = 2_000
_DRAWS = 200
_NOTHING = 1e-6


@dataclass(frozen=True, slots=True)
class Posterior:
    """How likely a pair of corrected similarity s is matched: odds (1 − π) / π (s / (1 − s))^b.

    Attributes:
        rate: π in [0, 1]; with a slope of 1 the share of mismatched pairs, by Bayes' rule.
        slope: b in (0, 1].
    """

    rate: float
    slope: float = 1.0

    def __call__(self, corrected: npt.ArrayLike) -> Scores:
        """Returns clean probabilities, [n] in [0, 1]."""
        values, rate = np.asarray(corrected, dtype=np.float64), _bounded(self.rate)
        matched = (1 - rate) * values**self.slope
        mismatched = rate * (1 - values) ** self.slope
        probability: Scores = (matched / (matched + mismatched)).astype(np.float32)
        return probability

    def corrected_at(self, clean_probability: float) -> float:
        """Returns the corrected similarity of a clean probability, both in [0, 1]."""
        rate = _bounded(self.rate)
        matched = (rate * clean_probability) ** (1 / self.slope)
        mismatched = ((1 - rate) * (1 - clean_probability)) ** (1 / self.slope)
        return float(matched / (matched + mismatched))


@dataclass(frozen=True, slots=True)
class NearMisses:
    """What the pool says where it holds pairs that are unlike matched and exchanged ones.

    Attributes:
        posterior: By the matched probes and the pool.
        rate: Share of mismatched pairs in the pool by it, in [0, 1].
        rates: The same with the probes drawn again and again: how uncertain it is.
    """

    posterior: Posterior
    rate: float
    rates: Floats

    def to_json(self) -> dict[str, Any]:
        """Returns plain data that `from_json` restores."""
        return {
            "posterior": asdict(self.posterior),
            "rate": self.rate,
            "rates": self.rates.tolist(),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any] | None) -> NearMisses | None:
        """Restores what `to_json` gave."""
        if data is None:
            return None
        return NearMisses(
            Posterior(**data["posterior"]), float(data["rate"]), np.array(data["rates"])
        )


class View(NamedTuple):
    """Corrected similarities by one kind of evidence.

    Attributes:
        matched: [m], of matched pairs, by heads that did not learn from them.
        pool: [n].
    """

    matched: npt.ArrayLike
    pool: npt.ArrayLike


def find_near_misses(views: Sequence[View], *, rate: float, seed: int) -> NearMisses | None:
    """Looks whether the pool contradicts Bayes' rule; None where it does not.

    Each view gets a posterior of its own. All are of the same pool, so that the log odds of their
    noise rates are drawn together, as if normally distributed about each other with deviation 1.

    Args:
        views: That of the judge, whose posterior is returned, and others that support it.
        rate: The share of mismatched pairs by which Bayes' rule would be applied.
        seed: Of the draws.
    """
    probes = [_logit(view.matched) for view in views]
    if len(probes[0]) < _MIN_MATCHED:
        return None
    # Everything is a mean over the pool, whatever its size.
    places = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    pairs = [np.quantile(_logit(view.pool), places) for view in views]
    even = [np.ones(len(matched)) for matched in probes]
    bayes = np.tile([_logit(1 - _bounded(rate)), 1.0], len(views))
    flat = np.tile([0.0, 0.5], len(views))
    found = min(
        (_fit(probes, pairs, even, start) for start in (bayes, flat)),
        key=lambda parameters: _loss(parameters, probes, pairs, even)[0],
    )
    gain = _loss(bayes, probes, pairs, even)[0] - _loss(found, probes, pairs, even)[0]
    share = _rate(found, pairs[0])
    if gain < _TOO_MUCH or share <= rate:
        return None
    rng = np.random.default_rng(seed)
    rates = []
    for _ in range(_DRAWS):
        drawn = [rng.dirichlet(own) * len(own) for own in even]  # the Bayesian bootstrap
        rates.append(_rate(_fit(probes, pairs, drawn, found), pairs[0]))
    intercept, slope = found[:2]
    posterior = Posterior(float(1 / (1 + np.exp(intercept))), float(slope))
    return NearMisses(posterior, share, np.array(rates))


def _fit(
    probes: Sequence[Floats], pairs: Sequence[Floats], weights: Sequence[Floats], start: Floats
) -> Floats:
    from scipy.optimize import minimize  # takes longer to load than a purge to decide

    found: Floats = minimize(
        _loss,
        start,
        args=(probes, pairs, weights),
        jac=True,
        method="L-BFGS-B",
        bounds=[_INTERCEPTS, _SLOPES] * len(probes),
    ).x
    return found


def _loss(
    parameters: Floats,
    probes: Sequence[Floats],
    pairs: Sequence[Floats],
    weights: Sequence[Floats],
) -> tuple[float, Floats]:
    """Negative log-likelihood of the probes as pairs of the pool that were found matched."""
    loss, gradients, odds, of_odds = 0.0, [], [], []
    for own, matched, pool, weight in zip(
        parameters.reshape(-1, 2), probes, pairs, weights, strict=True
    ):
        of_matched, of_pool = _sigmoid(own, matched), _sigmoid(own, pool)
        mean, total = of_pool.mean(), weight.sum()
        slopes = of_pool * (1 - of_pool)
        of_mean = np.array([slopes.mean(), (slopes * pool).mean()]) / mean
        missing = weight * (1 - of_matched)
        loss += total * np.log(mean) - weight @ np.log(of_matched)
        gradients.append(total * of_mean - [missing.sum(), missing @ matched])
        odds.append(np.log(mean / (1 - mean)))
        of_odds.append(of_mean / (1 - mean))
    apart = np.array(odds) - np.mean(odds)
    loss += apart @ apart
    gradient = np.array(gradients) + 2 * apart[:, None] * np.array(of_odds)
    return float(loss), gradient.ravel()


def _rate(parameters: Floats, pairs: Floats) -> float:
    return float(1 - _sigmoid(parameters[:2], pairs).mean())


def _sigmoid(parameters: Floats, logits: Floats) -> Floats:
    intercept, slope = parameters
    probability: Floats = 1 / (1 + np.exp(-(intercept + slope * logits)))
    return probability


def _bounded(rate: float) -> float:
    return min(max(rate, _MIN_RATE), 1 - _MIN_RATE)


def _logit(scores: npt.ArrayLike) -> Floats:
    values = np.clip(np.asarray(scores, dtype=np.float64), _NOTHING, 1 - _NOTHING)
    logits: Floats = np.log(values / (1 - values))
    return logits
