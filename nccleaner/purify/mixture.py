"""The two-component Beta mixture over scores in (0, 1), with the trusted pairs as prior.

Scores enter as a histogram, which merges across shards and workers by addition; what leaves is the
posterior that a pair of a given score is matched, and the noise rate. MSCN section 3.3 [P]; the
histogram, the maximum-likelihood M-step, `anchor` and the guards are ours [O].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from nccleaner.purify.shares import Floats

Prior = Literal["anchor", "init"]

BINS = 4096
_CLIP = 1e-3
_CENTRES: Floats = np.linspace(_CLIP, 1 - _CLIP, BINS)
_LOG: Floats = np.log(_CENTRES)
_LOG1M: Floats = np.log1p(-_CENTRES)

_MIN_SHAPE, _MAX_SHAPE = 0.05, 500.0

# A component lighter than this is no component: the pool is all clean, or all mismatched.
_MIN_WEIGHT = 0.01


def histogram(scores: npt.ArrayLike) -> Floats:
    """Counts scores in [0, 1] in 4,096 bins; histograms of parts add up to that of the whole."""
    return np.bincount(_bins(scores), minlength=BINS).astype(np.float64)


def _bins(scores: npt.ArrayLike) -> npt.NDArray[np.int64]:
    clipped = np.clip(np.asarray(scores, dtype=np.float64), _CLIP, 1 - _CLIP)
    return np.rint((clipped - _CLIP) / (1 - 2 * _CLIP) * (BINS - 1)).astype(np.int64)


def share_at_least(counts: Floats, score: float) -> float:
    """Returns the share of a histogram's counts that are at `score` or above."""
    first = int(np.searchsorted(_CENTRES, score - 1e-12))
    return float(counts[first:].sum() / counts.sum())


@dataclass(frozen=True, slots=True)
class Beta:
    """A Beta distribution over scores in (0, 1)."""

    a: float
    b: float

    @property
    def mean(self) -> float:
        """Mean score."""
        return self.a / (self.a + self.b)

    def log_density(self) -> Floats:
        """Log density at the bin centres, [bins]."""
        from scipy.special import betaln  # takes longer to load than a purge to decide

        return (self.a - 1) * _LOG + (self.b - 1) * _LOG1M - betaln(self.a, self.b)

    @staticmethod
    def fit(weights: Floats) -> Beta:
        """Fits by maximum likelihood to a histogram with at least one count.

        Newton's method on the two likelihood equations, from the estimate of moments. Shapes stay
        in [0.05, 500]: a handful of equal scores must not become a spike. Where the larger shape
        passes the bound both shrink alike, which keeps the mean.
        """
        from scipy.special import digamma, polygamma

        total = weights.sum()
        mean_log, mean_log1m = weights @ _LOG / total, weights @ _LOG1M / total
        mean = weights @ _CENTRES / total
        variance = max(weights @ (_CENTRES - mean) ** 2 / total, 1e-6)
        common = max(mean * (1 - mean) / variance - 1, 0.2)
        a, b = mean * common, (1 - mean) * common
        for _ in range(50):
            if max(a, b) > _MAX_SHAPE:
                break
            both, both_slope = digamma(a + b), polygamma(1, a + b)
            gradient = np.array([both - digamma(a) + mean_log, both - digamma(b) + mean_log1m])
            slope = np.array(
                [
                    [both_slope - polygamma(1, a), both_slope],
                    [both_slope, both_slope - polygamma(1, b)],
                ]
            )
            step_a, step_b = np.linalg.solve(slope, gradient)
            # Halving at most keeps both shapes positive.
            new_a, new_b = max(a - step_a, a / 2), max(b - step_b, b / 2)
            done = abs(new_a - a) < 1e-6 * a and abs(new_b - b) < 1e-6 * b
            a, b = new_a, new_b
            if done:
                break
        shrink = min(1.0, _MAX_SHAPE / max(a, b))
        return Beta(float(max(a * shrink, _MIN_SHAPE)), float(max(b * shrink, _MIN_SHAPE)))


@dataclass(frozen=True, slots=True)
class BetaMixture:
    """Scores of the pool as a mixture of matched and mismatched pairs.

    Attributes:
        matched: Distribution of matched pairs' scores.
        mismatched: Distribution of mismatched pairs' scores.
        noise_rate: Weight of the mismatched component: the share of mismatched pairs.
        fallback: Why the pool's own fit was not used and the components are those of the trusted
            pairs; empty if it was.
    """

    matched: Beta
    mismatched: Beta
    noise_rate: float
    fallback: str = ""

    def clean_probability(self, scores: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Posterior that pairs of these scores are matched; never falls where the score rises."""
        clipped = np.clip(np.asarray(scores, dtype=np.float64), _CLIP, 1 - _CLIP)
        return np.interp(clipped, _CENTRES, self._posterior()).astype(np.float32)

    def distance(self, other: BetaMixture) -> float:
        """The most that the noise rate or a component's mean differs, in [0, 1]."""
        return max(
            abs(self.noise_rate - other.noise_rate),
            abs(self.matched.mean - other.matched.mean),
            abs(self.mismatched.mean - other.mismatched.mean),
        )

    def _posterior(self) -> Floats:
        """Posterior at the bin centres, [bins].

        Where one Beta is wider than the other, its tail wins at both ends and the plain posterior
        turns back: from there on it is held at its extreme.
        """
        posterior = self._responsibility()
        centre = int(np.searchsorted(_CENTRES, (self.mismatched.mean + self.matched.mean) / 2))
        lowest = int(np.argmin(posterior[: centre + 1]))
        posterior[:lowest] = posterior[lowest]
        return np.maximum.accumulate(posterior)

    def _responsibility(self) -> Floats:
        with np.errstate(divide="ignore"):
            log_matched = np.log1p(-self.noise_rate) + self.matched.log_density()
            log_mismatched = np.log(self.noise_rate) + self.mismatched.log_density()
        joint: Floats = np.logaddexp(log_matched, log_mismatched)
        responsibility: Floats = np.exp(log_matched - joint)
        return responsibility

    def log_likelihood(self, pool: Floats) -> float:
        """Log likelihood of a histogram."""
        with np.errstate(divide="ignore"):
            joint = np.logaddexp(
                np.log1p(-self.noise_rate) + self.matched.log_density(),
                np.log(self.noise_rate) + self.mismatched.log_density(),
            )
        used = pool > 0
        return float(pool[used] @ joint[used])


def fit_mixture(
    pool: Floats,
    *,
    matched: Floats,
    mismatched: Floats,
    prior: Prior,
    max_iterations: int,
    tolerance: float,
) -> BetaMixture:
    """Fits the mixture to the pool, started and guarded by the trusted pairs.

    One Beta is fitted to each trusted group; these start the EM on the pool [P]. With
    `prior="anchor"` the trusted pairs stay in every M-step as labelled data [O], each group with
    at least the weight of its component's share of the pool, so that few pairs can steer many.

    The pool's own fit is refused, and the trusted pairs' components kept with only the weight
    fitted, where a component weighs under 1 %, where the components cross, or where the mixture
    explains the pool no better than one Beta (Bayesian information criterion).

    Args:
        pool: Histogram of the pool's scores.
        matched: Histogram of the trusted matched pairs' scores, not empty.
        mismatched: Histogram of the trusted mismatched pairs' scores, not empty.
        prior: `anchor` or `init`.
        max_iterations: Of EM (10 [P]).
        tolerance: EM stops when noise rate and means move less (1e-2 [P]). The rate alone would
            stop it at once: it starts where the trusted components have it at rest.
    """
    start = BetaMixture(Beta.fit(matched), Beta.fit(mismatched), 0.5)
    start = _fit_noise_rate(start, pool)
    if not pool.any():
        return start
    if start.matched.mean <= start.mismatched.mean:
        return _with_fallback(start, "trusted matched pairs score no higher than mismatched ones")

    mixture = start
    for _ in range(max_iterations):
        responsibility = mixture._responsibility()
        clean, noisy = pool * responsibility, pool * (1 - responsibility)
        if min(clean.sum(), noisy.sum()) < _MIN_WEIGHT * pool.sum():
            return _with_fallback(start, "one component weighs under 1 %")
        rate = noisy.sum() / pool.sum()
        if prior == "anchor":
            clean = clean + matched * _anchor_weight(clean, matched)
            noisy = noisy + mismatched * _anchor_weight(noisy, mismatched)
        previous, mixture = mixture, BetaMixture(Beta.fit(clean), Beta.fit(noisy), float(rate))
        if mixture.distance(previous) < tolerance:
            break
    if mixture.matched.mean <= mixture.mismatched.mean:
        return _with_fallback(start, "the components cross")
    single = BetaMixture(Beta.fit(pool), Beta.fit(pool), 0.5)
    penalty = 1.5 * np.log(pool.sum())  # three more parameters, half the logarithm each
    if mixture.log_likelihood(pool) - penalty < single.log_likelihood(pool):
        return _with_fallback(start, "two components explain the pool no better than one")
    return mixture


def refit(scores: npt.ArrayLike, belief: npt.ArrayLike) -> BetaMixture:
    """Does one M-step on scores of which each is believed to be matched to the degree given.

    Args:
        scores: [n], in [0, 1].
        belief: [n], in [0, 1].
    """
    bins, share = _bins(scores), np.asarray(belief, dtype=np.float64)
    matched: Floats = np.bincount(bins, share, BINS).astype(np.float64) + 1e-9
    mismatched: Floats = np.bincount(bins, 1 - share, BINS).astype(np.float64) + 1e-9
    return BetaMixture(Beta.fit(matched), Beta.fit(mismatched), float(1 - share.mean()))


def log_ratio(mixture: BetaMixture, scores: npt.ArrayLike) -> Floats:
    """Log of how much likelier each score is for a matched pair than for a mismatched one, [n]."""
    ratio: Floats = mixture.matched.log_density() - mixture.mismatched.log_density()
    return ratio[_bins(scores)]


def _fit_noise_rate(mixture: BetaMixture, pool: Floats) -> BetaMixture:
    """Fits only the noise rate to a histogram, by EM, with the components held."""
    ratio = np.exp(
        np.clip(mixture.mismatched.log_density() - mixture.matched.log_density(), -50, 50)
    )
    rate, total = mixture.noise_rate, pool.sum()
    for _ in range(500 if total else 0):
        odds = rate / max(1 - rate, 1e-12) * ratio
        new = float(pool @ (odds / (1 + odds)) / total)
        moved, rate = abs(new - rate), new
        if moved < 1e-6:
            break
    return BetaMixture(mixture.matched, mixture.mismatched, rate, mixture.fallback)


def _anchor_weight(component: Floats, trusted: Floats) -> float:
    """Weight of one trusted pair: together as much as the component, each at least one."""
    return max(1.0, float(component.sum() / trusted.sum()))


def _with_fallback(mixture: BetaMixture, reason: str) -> BetaMixture:
    return BetaMixture(mixture.matched, mixture.mismatched, mixture.noise_rate, reason)
