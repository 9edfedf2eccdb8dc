"""Cut-offs judged by the trusted pairs: how many mismatched pairs reach a cut-off (METHOD 4) [O].

What a cut-off keeps is counted. The noise rate says how many mismatched pairs there are, and the
labelled mismatched ones what share of them reaches it: precision = 1 - π FPR / kept. That equals
(1 - π) TPR / ((1 - π) TPR + π FPR), but needs one share less, and no labelled matched pair for it.
It assumes that trusted pairs are like the good pairs of the shards, and mismatched ones, labelled
or made by exchange, like those that are there. Where the pool showed that the latter are not, the
clean probabilities say how many mismatched pairs there are, and how many of them reach a cut-off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nccleaner.purify.decide import Column, Cuts, Grid, Known, ScoreCounts
from nccleaner.purify.judge import Judge
from nccleaner.purify.near_misses import NearMisses
from nccleaner.purify.noise import CUTOFF, Passed, highest_rate, solve_rate
from nccleaner.purify.prices import Masses, Price, prices_of
from nccleaner.purify.shares import LEVEL, Floats, highest_share

_DRAWS = 2000
_NEARLY_NONE = 1e-6
# Of each bound that says whether the labelled pairs are like the others.
_BY_CHANCE = 0.01
# Fewer pairs of a standing say nothing of that.
_MIN_TO_CONTRADICT = 100


class Standing(NamedTuple):
    """Pairs of one standing that nobody labelled.

    Attributes:
        judge: Their judge.
        pairs: How many they are.
        passing: Share of them whose corrected similarity is at least `CUTOFF`.
        scores: Of them all; read where there are near misses.
    """

    judge: Judge
    pairs: int
    passing: float
    scores: ScoreCounts


class ByTrusted:
    """Prices and bounds from the labelled pairs of the judges.

    Args:
        column: The score that is cut.
        standings: Of the fitted and of the unseen pairs; together at least one pair.
        known: Pairs that a person labelled.
        labelled: How many trusted pairs all of this rests on.
        seed: Of the draws.
    """

    def __init__(
        self,
        column: Column,
        standings: Sequence[Standing],
        *,
        known: Known,
        labelled: int,
        seed: int,
    ) -> None:
        self.labelled = labelled
        self._column = column
        self._standings = standings
        self._known = known
        self._seed = seed
        self._pairs = sum(standing.pairs for standing in standings)

    def prices(self, cuts: Cuts) -> list[Price]:
        """Estimates what each cut-off costs.

        Intervals come from the labelled pairs, which limit what can be known: in every draw the
        shares of matched and of mismatched pairs that pass are drawn from their posterior under
        Jeffreys' prior. The noise rate is what makes those shares agree with the share of all pairs
        that pass; where the judge has other evidence of it, that is drawn likewise and counts as
        in its value. Where there are near misses only the noise rate is drawn, by the matched pairs
        and the pool.
        """
        rng = np.random.default_rng(self._seed)
        mismatched = np.zeros(1 + _DRAWS)
        kept = np.zeros((1 + _DRAWS, len(cuts.values)))
        for standing, of_kept in zip(self._standings, cuts.kept, strict=True):
            if not standing.pairs:
                continue
            near_misses = standing.judge.near_misses
            rates, shares = (
                self._drawn(standing, cuts, rng)
                if near_misses is None
                else _drawn_by_pool(near_misses, standing.scores, cuts, rng)
            )
            here = standing.pairs * rates[:, None]
            least = np.maximum(here - (standing.pairs - of_kept), 0)
            most = np.minimum(here, of_kept)
            mismatched += here[:, 0]
            kept += np.clip(here * shares, least, most)
        any_seen = self.mismatched(cuts).sum(axis=0) > 0
        any_seen |= self.holds_near_misses()
        return prices_of(Masses(mismatched, kept, any_seen), cuts, self._pairs, self._known)

    def mismatched(self, cuts: Cuts) -> Floats:
        """Counts the labelled mismatched pairs that reach each cut-off, [s, c]."""
        return np.stack(
            [
                self._reach(standing, cuts)[~standing.judge.labelled.matched].sum(axis=0)
                for standing in self._standings
            ]
        ).astype(np.float64)

    def expected(self, grid: Grid) -> Floats:
        """Returns how many labelled mismatched pairs should reach each cut-off, [s, c]."""
        made = [[(~standing.judge.labelled.matched).sum()] for standing in self._standings]
        expected: Floats = np.array(made) * grid.believed / np.maximum(grid.believed[:, -1:], 1e-9)
        return expected

    def grows(self) -> npt.NDArray[np.bool_]:
        """Tells whether more labels would mean more labelled mismatched pairs, [s, 1]."""
        return np.array([[standing.judge.labelled.grows] for standing in self._standings])

    def bounds(self, cuts: Cuts, mismatched: Floats, *, times: float = 1.0) -> Floats:
        """Returns for each cut-off what the precision is at least, [c] in [0, 1].

        That is of the pairs that nobody labelled; the others are kept only if they are matched.
        Each alone holds with a probability of `LEVEL`. The probability of a miss is shared out: in
        proportion to their pairs over the standings, there half to the share of mismatched pairs
        that reach the cut-off and half to the noise rate.

        Args:
            cuts: The cut-offs.
            mismatched: [s, c], as `mismatched` counts them.
            times: Supposes that people labelled so many times as many pairs that are alike.
        """
        worst = np.zeros(len(cuts.values))
        for standing, of_kept, reached in zip(self._standings, cuts.kept, mismatched, strict=True):
            if not standing.pairs:
                continue
            if standing.judge.near_misses is not None:
                worst += of_kept  # the labelled mismatched pairs say nothing of these
                continue
            miss = (1 - LEVEL) * standing.pairs / self._pairs / 2
            made = (~standing.judge.labelled.matched).sum()
            weight = standing.judge.labelled.weight(times)
            share = highest_share(reached * weight, made * weight, miss=miss)
            rate = _highest_rate(standing, times, miss)
            worst += np.minimum(standing.pairs * rate * share, of_kept)
        bounds: Floats = 1 - worst / np.maximum(cuts.kept.sum(axis=0), 1)
        return bounds

    def holds_near_misses(self) -> bool:
        """Tells whether there are mismatched pairs that are unlike the labelled ones."""
        return any(
            standing.judge.near_misses is not None for standing in self._standings if standing.pairs
        )

    def is_contradicted(self) -> bool:
        """Tells whether more pairs pass than matched labelled ones do, or fewer than mismatched.

        Then no mixture of pairs like the labelled ones makes up the pairs that are judged, and no
        estimate of theirs holds. If they are alike, this is said of one in 50 sets of pairs that
        are all matched, or all mismatched, and hardly ever of others. Standings of fewer than 100
        pairs are not looked at.
        """
        return any(
            _is_contradicted(standing)
            for standing in self._standings
            if standing.pairs >= _MIN_TO_CONTRADICT
        )

    def _reach(self, standing: Standing, cuts: Cuts) -> Floats:
        """Tells which labelled pairs reach which cut-off, [n, c]."""
        scores = standing.judge.labelled.column(self._column)
        return (scores[:, None] >= cuts.values.astype(np.float32)).astype(np.float64)

    def _drawn(
        self, standing: Standing, cuts: Cuts, rng: np.random.Generator
    ) -> tuple[Floats, Floats]:
        """Noise rates, [1 + draws], and shares of mismatched pairs that reach, [1 + draws, c]."""
        labelled, noise = standing.judge.labelled, standing.judge.noise
        passes = labelled.corrected_similarity >= CUTOFF
        good = passes[labelled.matched].astype(np.float64)[:, None]
        bad = np.column_stack([passes, self._reach(standing, cuts)])[~labelled.matched]
        good_shares = _draw_shares(good, 1, rng)[:, 0]
        bad_shares = _draw_shares(bad, standing.judge.labelled.repeats, rng)
        # What rests on the same scores of the labelled pairs is drawn with them.
        own = None if noise is None or standing.judge.sibling_heads else noise.beside
        passing = standing.passing if own is None else own.passing
        rates = np.asarray(solve_rate(passing, good_shares, bad_shares[:, 0]))
        if noise is not None:
            beside = None if own is None else rates[1:]
            rates = np.append(noise.value, noise.draws(_DRAWS, rng, beside=beside))
        return rates, bad_shares[:, 1:]


def _drawn_by_pool(
    near_misses: NearMisses, scores: ScoreCounts, cuts: Cuts, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Noise rates, [1 + draws], and the share of mismatched pairs that reach, [1, c].

    Pairs that the pool of the fit does not hold have a noise rate of their own; its log odds are as
    uncertain as those of the pool.
    """
    bounds = _NEARLY_NONE, 1 - _NEARLY_NONE
    rate, pool, draws = (
        np.clip(rates, *bounds)
        for rates in (
            scores.mismatched / scores.total,
            near_misses.rate,
            rng.choice(near_misses.rates, _DRAWS),
        )
    )
    odds = rate / (1 - rate) * np.append(1.0, draws / (1 - draws) * (1 - pool) / pool)
    reach = scores.expected_mismatched(cuts.values) / max(scores.mismatched, _NEARLY_NONE)
    return odds / (1 + odds), reach[None]


def _highest_rate(standing: Standing, times: float, miss: float) -> float:
    """The noise rate is above it with a probability of at most `miss`."""
    noise = standing.judge.noise
    if noise is not None:
        return noise.highest(miss=miss, times=times)
    return highest_rate(standing.passing, *_passed(standing, times), miss=miss)


def _is_contradicted(standing: Standing) -> bool:
    noise = standing.judge.noise
    if noise is None:
        passing, (matched, mismatched) = standing.passing, _passed(standing, 1.0)
    else:
        passing = noise.passing
        matched, mismatched = (
            Passed(share * noise.trusted, noise.trusted)
            for share in (noise.matched_passing, noise.mismatched_passing)
        )
    lowest = _share(mismatched) - _standard_error(mismatched)
    if lowest <= passing <= _share(matched) + _standard_error(matched):
        # As nearly always. Exact bounds are wider, but scipy takes longer to load than the rest.
        return False
    judged = Passed(passing * standing.pairs, standing.pairs)
    return _lowest(judged) > _highest(matched) or _highest(judged) < _lowest(mismatched)


def _share(passed: Passed) -> float:
    return passed.passing / max(passed.trials, 1)


def _standard_error(passed: Passed) -> float:
    return math.sqrt(_share(passed) * (1 - _share(passed)) / max(passed.trials, 1))


def _highest(passed: Passed) -> float:
    return float(highest_share(*passed, miss=_BY_CHANCE))


def _lowest(passed: Passed) -> float:
    return 1 - _highest(Passed(passed.trials - passed.passing, passed.trials))


def _passed(standing: Standing, times: float) -> tuple[Passed, Passed]:
    """Labelled matched pairs, and mismatched ones, `times` as many as there are."""
    labelled = standing.judge.labelled
    passes = labelled.corrected_similarity >= CUTOFF
    good, bad = passes[labelled.matched], passes[~labelled.matched]
    weight = labelled.weight(times)
    return (
        Passed(good.sum() * times, len(good) * times),
        Passed(bad.sum() * weight, len(bad) * weight),
    )


def _draw_shares(passes: Floats, repeats: int, rng: np.random.Generator) -> Floats:
    """Estimates, then draws the shares of pairs that pass each of several cut-offs, [n, c].

    A Bayesian bootstrap with half a pair added that passes and half a pair that does not: for one
    cut-off exactly Jeffreys' posterior, for several their joint one.

    Returns:
        [1 + draws, c], the posterior's mean first.
    """
    count = len(passes) / repeats
    mean = (passes.sum(axis=0) / repeats + 0.5) / (count + 1)
    weights = rng.gamma(1 / repeats, size=(_DRAWS, len(passes)))
    added = rng.gamma(0.5, size=(_DRAWS, 2))
    total = weights.sum(axis=1) + added.sum(axis=1)
    drawn = (weights @ passes + added[:, :1]) / total[:, None]
    return np.concatenate([mean[None], drawn])
