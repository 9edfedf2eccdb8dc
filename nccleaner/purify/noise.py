"""The noise rate of the pool, from the shares of pairs that pass a cut-off.

A share of matched and a share of mismatched pairs pass any cut-off; the share of the pool that
passes says how the two are mixed (Saerens et al. 2002; Lipton et al. 2018). On the frozen evidence,
which no pair of the pool has influenced, every trusted pair can say what these shares are. After
training only the planted probes can, but fewer pairs are on the wrong side; both are heeded [O].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nccleaner.purify.heads import EvidenceHead, Prior, out_of_fold, stratified_folds
from nccleaner.purify.shares import Floats, highest_share

# Where a matched and a mismatched pair are equally likely, if there are as many of both.
CUTOFF = 0.5


class CrossScored(NamedTuple):
    """Corrected similarities by one head; those of labelled pairs by heads without them.

    Attributes:
        pool: [n].
        matched: [m].
        mismatched: [k].
    """

    pool: Floats
    matched: Floats
    mismatched: Floats


class Passed(NamedTuple):
    """Labelled pairs of one kind that pass the cut-off; neither number need be whole.

    Attributes:
        passing: How many do.
        trials: Of how many.
    """

    passing: float
    trials: float


@dataclass(frozen=True, slots=True)
class NoiseRate:
    """An estimated share of mismatched pairs, with what it was made from.

    Attributes:
        passing: Share of the pool that passes the cut-off.
        matched_passing: Share of the trusted matched pairs that does.
        mismatched_passing: Share of mismatched pairs that does.
        trusted: How many trusted pairs there were of the rarer kind; both shares are as uncertain
            as that says.
        beside: The same by other evidence, of some of the same trusted pairs.
    """

    passing: float
    matched_passing: float
    mismatched_passing: float
    trusted: int
    beside: NoiseRate | None = None

    @property
    def value(self) -> float:
        """The noise rate, in [0, 1]; the mean of both, each as heavy as it is certain."""
        own = float(solve_rate(self.passing, self.matched_passing, self.mismatched_passing))
        if self.beside is None:
            return own
        return self._weight * own + (1 - self._weight) * self.beside.value

    def draws(
        self, count: int, rng: np.random.Generator, *, beside: Floats | None = None
    ) -> Floats:
        """Draws noise rates from the posterior of both shares under Jeffreys' prior, [count].

        With other evidence beside it they are spread as if the lowest came with the lowest: as
        uncertain as if both erred together, as they do where it is the trusted pairs that are
        unusual.

        Args:
            count: How many.
            rng: Source of randomness.
            beside: [count], draws by the other evidence, each of which is heard in the rate of the
                same place; None: drawn here.
        """
        shares = (
            rng.beta(share * self.trusted + 0.5, (1 - share) * self.trusted + 0.5, count)
            for share in (self.matched_passing, self.mismatched_passing)
        )
        rates: Floats = np.asarray(solve_rate(self.passing, *shares))
        if self.beside is None:
            return rates
        others = self.beside.draws(count, rng) if beside is None else beside
        ranks = self._mean(rates, others).argsort().argsort()
        return self._mean(np.sort(rates), np.sort(others))[ranks]

    def _mean(self, own: Floats, others: Floats) -> Floats:
        """Means of rates by this evidence and by the other, each as heavy as it is certain."""
        return self._weight * own + (1 - self._weight) * others

    @property
    def _weight(self) -> float:
        """How much this counts, in [0, 1], where there is other evidence beside it."""
        assert self.beside is not None
        own, other = self._variance, self.beside._variance
        return other / (own + other)

    @property
    def _variance(self) -> float:
        """Of the rate, by both shares; never 0, as their posterior means are not 0 or 1."""
        matched, mismatched = (
            (share * self.trusted + 0.5) / (self.trusted + 1)
            for share in (self.matched_passing, self.mismatched_passing)
        )
        rate = float(solve_rate(self.passing, matched, mismatched))
        spread = (1 - rate) ** 2 * matched * (1 - matched)
        spread += rate**2 * mismatched * (1 - mismatched)
        return float(spread / (self.trusted + 1) / _apart(matched, mismatched) ** 2)

    def highest(self, *, miss: float, times: float = 1.0) -> float:
        """Returns what the noise rate exceeds with a probability of at most `miss`.

        By this evidence alone: exact bounds of two kinds of evidence cannot be joined to a lower
        one that still holds.

        Args:
            miss: In (0, 1).
            times: Supposes that there are so many times as many trusted pairs that are alike.
        """
        count = self.trusted * times
        shares = (self.matched_passing, self.mismatched_passing)
        return highest_rate(
            self.passing, *(Passed(share * count, count) for share in shares), miss=miss
        )

    @staticmethod
    def from_json(data: Mapping[str, Any] | None) -> NoiseRate | None:
        """Restores what `asdict` gave."""
        if data is None:
            return None
        return NoiseRate(**{**data, "beside": NoiseRate.from_json(data["beside"])})


def cross_score(
    pool: npt.ArrayLike, matched: npt.ArrayLike, mismatched: npt.ArrayLike, *, seed: int
) -> CrossScored:
    """Scores the pool and labelled pairs by heads that learn from the latter.

    Args:
        pool: [n, e] evidence of its pairs.
        matched: [m, e] of trusted matched pairs.
        mismatched: [k, e] of mismatched pairs made of them, or labelled.
        seed: Of the folds by which the labelled pairs are scored.
    """
    evidence = np.asarray(pool, dtype=np.float64)
    labelled = np.concatenate([np.asarray(matched), np.asarray(mismatched)])
    is_matched = np.arange(len(labelled)) < len(np.asarray(matched))
    mean, scale = evidence.mean(axis=0), evidence.std(axis=0) + 1e-9
    folds = stratified_folds(is_matched, np.random.default_rng(seed))
    prior = Prior.equal(evidence.shape[1])
    scores = out_of_fold(labelled, is_matched, mean=mean, scale=scale, folds=folds, prior=prior)
    head = EvidenceHead.fit(labelled, is_matched, mean=mean, scale=scale, prior=prior)
    return CrossScored(head(evidence), scores[is_matched], scores[~is_matched])


def estimate_noise_rate(scores: CrossScored) -> NoiseRate:
    """Estimates the noise rate of the pool.

    Args:
        scores: Of labelled pairs that stand where the pool's pairs stand, by heads that did not
            learn from them.
    """
    passing, matched, mismatched = (float((part >= CUTOFF).mean()) for part in scores)
    least = min(len(scores.matched), len(scores.mismatched))
    return NoiseRate(passing, matched, mismatched, least)


def highest_rate(passing: float, matched: Passed, mismatched: Passed, *, miss: float) -> float:
    """Returns what the noise rate exceeds with a probability of at most `miss` [O].

    The rate rises with both shares, so that their exact upper bounds make that of the rate. Where
    no mixture of labelled pairs within these bounds passes as often as all pairs do, the labelled
    pairs are not like the others and nothing is known: the rate may be 1.

    Args:
        passing: Share of all pairs that passes the cut-off, in [0, 1].
        matched: Labelled matched pairs.
        mismatched: Labelled mismatched pairs.
        miss: In (0, 1).
    """
    most, least = (float(highest_share(*passed, miss=miss / 2)) for passed in (matched, mismatched))
    return float(solve_rate(passing, most, least)) if least < passing <= most else 1.0


def solve_rate(
    passing: float, matched: float | Floats, mismatched: float | Floats
) -> float | Floats:
    """Returns the noise rate at which these shares of both kinds make up the share of all.

    Args:
        passing: Share of all pairs that passes a cut-off, in [0, 1].
        matched: Share of the matched pairs that does; one, or [draws].
        mismatched: Share of the mismatched pairs that does, likewise.
    """
    rate: Floats = np.clip((matched - passing) / _apart(matched, mismatched), 0, 1)
    return rate


def _apart(matched: float | Floats, mismatched: float | Floats) -> Floats:
    """Scores that tell nothing apart say nothing: the bound keeps quotients finite."""
    apart: Floats = np.maximum(np.asarray(matched) - mismatched, 1e-3)
    return apart
