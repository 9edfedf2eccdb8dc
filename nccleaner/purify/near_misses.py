"""Whether a pool holds near misses, and how likely its pairs are then matched [O].

Judges learn from exchanged captions what a mismatch looks like. Captions that are nearly right look
otherwise, and Bayes' rule takes them for matched. Matched probes and the pool say how likely pairs
are matched without a single mismatched one: of all logistic posteriors the likeliest is that by
which pairs drawn from the pool, each with its clean probability, are most like the matched probes.
Where it is far likelier than what a pool of the labelled pairs themselves gives, the pool holds
pairs of which the exchanged ones tell nothing.

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

from nccleaner.purify.posterior import Posterior, bounded
from nccleaner.purify.shares import Floats

# Fewer matched probes say little of the shape of a posterior.
_MIN_MATCHED = 40
# A smaller pool has a form of its own by chance.
_MIN_POOL = 1_000
# Of the difference of two log-likelihoods; by chance about one pool in 100 is above.
_TOO_MUCH = 2.5
# Fewer near misses than this share of the pool change little.
_WORTH_TELLING = 0.05
# Near misses make a posterior flatter, as far as scores of either kind are spread alike.
_SLOPES = (0.2, 1.0)
_INTERCEPTS = (-15.0, 15.0)
# Pairs of either kind that keep a noise rate of which little is known off 0 and 1.
_KNOWN = 1.0
_QUANTILES = 2_000
_DRAWS = 200
_NOTHING = 1e-6


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
        mismatched: [k], of exchanged or labelled mismatched pairs, likewise.
        pool: [n].
    """

    matched: npt.ArrayLike
    mismatched: npt.ArrayLike
    pool: npt.ArrayLike


class _Sample(NamedTuple):
    """A pool that matched pairs are compared with, as weighted logits.

    Attributes:
        matched: [m], logits.
        weights: [m], how often each counts.
        pool: [p], logits.
        shares: [p], of the pool.
    """

    matched: Floats
    weights: Floats
    pool: Floats
    shares: Floats


def find_near_misses(views: Sequence[View], *, rate: float, seed: int) -> NearMisses | None:
    """Looks whether the pool contradicts Bayes' rule; None where it does not.

    Each view gets a posterior of its own. All are of the same pool, so that the log odds of their
    noise rates are drawn together, as if normally distributed about each other with deviation 1;
    and their mean as if one matched and one mismatched pair of the pool were known. What it is
    compared with is the posterior of a pool made of the labelled pairs themselves: heads need not
    be right about them for that.

    Args:
        views: That of the judge, whose posterior is returned, and others that support it.
        rate: The share of mismatched pairs by which Bayes' rule would be applied.
        seed: Of the draws.
    """
    samples = [_against_pool(view) for view in views]
    if len(samples[0].matched) < _MIN_MATCHED or len(np.asarray(views[0].pool)) < _MIN_POOL:
        return None
    bayes = Posterior.by_bayes(rate)
    starts = [np.tile(own, len(views)) for own in ([bayes.intercept, bayes.slope], [0.0, 0.5])]
    expected = _fit([_against_labelled(view, bounded(rate)) for view in views], starts)
    found = _fit(samples, [*starts, expected], known=_KNOWN)
    gain = _loss(expected, samples)[0] - _loss(found, samples)[0]
    share = _rate(found, samples[0])
    if gain < _TOO_MUCH or share < rate + _WORTH_TELLING:
        return None
    rng = np.random.default_rng(seed)
    rates = []
    for _ in range(_DRAWS):
        drawn = [  # the Bayesian bootstrap
            sample._replace(weights=rng.dirichlet(sample.weights) * len(sample.weights))
            for sample in samples
        ]
        rates.append(_rate(_fit(drawn, [found], known=_KNOWN), samples[0]))
    return NearMisses(Posterior(float(found[0]), float(found[1])), share, np.array(rates))


def _against_pool(view: View) -> _Sample:
    matched = _logit(view.matched)
    pool = _quantiles(_logit(view.pool))
    return _Sample(matched, np.ones(len(matched)), pool, np.full(len(pool), 1 / len(pool)))


def _against_labelled(view: View, rate: float) -> _Sample:
    matched = _logit(view.matched)
    parts = [_quantiles(matched), _quantiles(_logit(view.mismatched))]
    shares = np.repeat([1 - rate, rate], _QUANTILES) / _QUANTILES
    return _Sample(matched, np.ones(len(matched)), np.concatenate(parts), shares)


def _quantiles(logits: Floats) -> Floats:
    """Everything is a mean over a pool, whatever its size."""
    places = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    quantiles: Floats = np.quantile(logits, places)
    return quantiles


def _fit(samples: Sequence[_Sample], starts: Sequence[Floats], *, known: float = 0.0) -> Floats:
    """Returns the likeliest intercept and slope of each sample, one after the other."""
    from scipy.optimize import minimize  # takes longer to load than a purge to decide

    bounds = [_INTERCEPTS, _SLOPES] * len(samples)
    fits = [
        minimize(_loss, start, args=(samples, known), jac=True, method="L-BFGS-B", bounds=bounds)
        for start in starts
    ]
    best: Floats = min(fits, key=lambda fit: float(fit.fun)).x
    return best


def _loss(
    parameters: Floats, samples: Sequence[_Sample], known: float = 0.0
) -> tuple[float, Floats]:
    """Negative log-likelihood of matched pairs as pairs of their pool that were found matched.

    Args:
        parameters: [2 for each sample].
        samples: Views of the same pool.
        known: So many pairs of the pool are known to be matched, and as many to be mismatched.
    """
    loss, gradients, odds, of_odds = 0.0, [], [], []
    for own, sample in zip(parameters.reshape(-1, 2), samples, strict=True):
        of_matched, of_pool = _sigmoid(own, sample.matched), _sigmoid(own, sample.pool)
        mean, total = sample.shares @ of_pool, sample.weights.sum()
        slopes = sample.shares * of_pool * (1 - of_pool)
        of_mean = np.array([slopes.sum(), slopes @ sample.pool]) / mean
        missing = sample.weights * (1 - of_matched)
        loss += total * np.log(mean) - sample.weights @ np.log(of_matched)
        gradients.append(total * of_mean - [missing.sum(), missing @ sample.matched])
        odds.append(np.log(mean / (1 - mean)))
        of_odds.append(of_mean / (1 - mean))
    apart = np.array(odds) - np.mean(odds)
    loss += apart @ apart
    middle = np.mean(odds)
    loss += known * (np.logaddexp(0, middle) + np.logaddexp(0, -middle))
    towards = 2 * apart + known * np.tanh(middle / 2) / len(samples)
    gradient = np.array(gradients) + towards[:, None] * np.array(of_odds)
    return float(loss), gradient.ravel()


def _rate(parameters: Floats, sample: _Sample) -> float:
    return float(1 - sample.shares @ _sigmoid(parameters[:2], sample.pool))


def _sigmoid(parameters: Floats, logits: Floats) -> Floats:
    intercept, slope = parameters
    probability: Floats = 1 / (1 + np.exp(-(intercept + slope * logits)))
    return probability


def _logit(scores: npt.ArrayLike) -> Floats:
    values = np.clip(np.asarray(scores, dtype=np.float64), _NOTHING, 1 - _NOTHING)
    logits: Floats = np.log(values / (1 - values))
    return logits
