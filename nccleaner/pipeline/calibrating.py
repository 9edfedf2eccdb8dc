"""What the trusted pairs decide after training: the noise rate, and the two judges."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from nccleaner.config import RunConfig
from nccleaner.pipeline.device import DeviceTables
from nccleaner.pipeline.labelled import EXCHANGES
from nccleaner.pipeline.looking import mismatched_of
from nccleaner.purify.evidence import Evidence, Scores
from nccleaner.purify.fit_judge import Outside, fit_judge, with_siblings
from nccleaner.purify.frozen import FrozenEvidence
from nccleaner.purify.heads import Prior, measure_echo
from nccleaner.purify.judge import Judge, Judges
from nccleaner.purify.near_misses import View, find_near_misses
from nccleaner.purify.noise import CUTOFF, CrossScored, cross_score, estimate_noise_rate
from nccleaner.purify.scoring import SIBLING_ROUNDS, Scorer
from nccleaner.train.cotrain import diverged
from nccleaner.train.pairs import join_pairs

Rows = npt.NDArray[np.int64]

# Pairs labelled 0 that can stand for all mismatched pairs.
_ENOUGH_REJECTED = 30
# Likewise outside the pool, where the probes have shown that exchanged ones cannot.
_ENOUGH_OUTSIDE = 10
# How often, by chance alone, they are taken to be unlike exchanged ones.
_BY_CHANCE = 0.01


def calibrate(
    scorer: Scorer,
    data: DeviceTables,
    config: RunConfig,
    *,
    belief: Scores,
    on_judge: Callable[[], None],
) -> Judges:
    """Fits the judge of the pool to the planted probes, that of other pairs to the held-out.

    Args:
        scorer: Trained; gets its alternatives here, and its judges from what is returned.
        data: Pool and trusted pairs.
        config: Seed.
        belief: [pool] in [0, 1], how much training believed each pair.
        on_judge: Called when both are fitted, and again when it is known whether they stand.

    Raises:
        TrainingError: The networks give scores that are not finite.
    """
    generator = torch.Generator().manual_seed(config.seed)
    held_out = data.tables.held_out
    matched = data.on_device(held_out.matched)
    mismatched = data.on_device(mismatched_of(held_out.matched, held_out.mismatched, generator))
    scorer.find_alternatives(data.features, data.pool, identities=data.identities, seed=config.seed)
    evidence = scorer.gather(
        data.features, join_pairs(data.pool, matched, mismatched), identities=data.identities
    )
    assert len(belief) == len(data.pool), "belief is of the pool"
    if not (evidence.is_finite and np.isfinite(belief).all()):
        raise diverged("the networks give scores that are not finite")
    ground = _Ground.of(evidence, belief, data, len(matched), config.seed)
    frozen = None
    if scorer.frozen is not None:
        frozen = _score_by_frozen(scorer.frozen, ground, data)
    judges, _ = _fit_judges(ground, frozen)
    on_judge()
    if _pass_more_often(judges.fitted, data.tables.probe_exchanged):
        ground = ground.without_exchanged(data)
        if scorer.frozen is not None:
            frozen = _score_by_frozen(scorer.frozen, ground, data)
        judges, _ = _fit_judges(ground, frozen)
    if config.purify.near_misses:
        judges = _heed_near_misses(judges, ground, frozen)
    on_judge()
    return judges


class _Ground(NamedTuple):
    """What judges are fitted to.

    Attributes:
        evidence: Of the pool, the probes in it, and labelled pairs outside it, in this order.
        belief: [pool and probes], how much training believed each pair.
        noisy: The pool without its probes.
        probes: [p], rows of probes that speak for the pool.
        probe_matched: [p] bool.
        outside: [o], rows of labelled pairs that speak for others.
        outside_matched: [o] bool.
        repeats: How many mismatched pairs of `outside` were made of one trusted pair.
        exchanged: Whether exchanged captions say what mismatched pairs are like.
        grows: Whether more labels would mean more mismatched probes.
        seed: Of the folds.
    """

    evidence: Evidence
    belief: Scores
    noisy: slice
    probes: Rows
    probe_matched: npt.NDArray[np.bool_]
    outside: Rows
    outside_matched: npt.NDArray[np.bool_]
    repeats: int
    exchanged: bool
    grows: bool
    seed: int

    @staticmethod
    def of(
        evidence: Evidence, belief: Scores, data: DeviceTables, matched: int, seed: int
    ) -> _Ground:
        """Takes all probes, and all that was gathered outside, `matched` first."""
        noisy = len(data.pool) - data.probes
        outside = np.arange(len(data.pool), len(evidence.similarity))
        return _Ground(
            evidence,
            belief,
            slice(0, noisy),
            np.arange(noisy, len(data.pool)),
            data.tables.probe_matched,
            outside,
            np.arange(len(outside)) < matched,
            EXCHANGES,
            exchanged=True,
            grows=not data.tables.probe_exchanged.any(),
            seed=seed,
        )

    def without_exchanged(self, data: DeviceTables) -> _Ground:
        """Leaves out what was made by exchange; outside only where enough is labelled there."""
        tables = data.tables
        own = ~tables.probe_exchanged
        ground = self._replace(
            probes=self.probes[own],
            probe_matched=self.probe_matched[own],
            exchanged=False,
            grows=True,
        )
        rejected = len(tables.held_out.mismatched)
        if rejected < _ENOUGH_OUTSIDE:
            return ground
        own = self.outside_matched.copy()
        own[-rejected:] = True
        return ground._replace(
            outside=self.outside[own], outside_matched=self.outside_matched[own], repeats=1
        )

    def priors(self, *, contrast_alone: bool) -> list[Prior]:
        """Returns for each network what the judge of the pool is drawn towards."""
        proportions = self.evidence.proportions(contrast_alone=contrast_alone)
        told, untold = self.probes[self.probe_matched], self.outside[self.outside_matched]
        pairs = zip(
            self.evidence.of_rows(told, contrast_alone=contrast_alone),
            self.evidence.of_rows(untold, contrast_alone=contrast_alone),
            strict=True,
        )
        return [
            Prior(proportions, measure_echo(seen, self.belief[told], unseen))
            for seen, unseen in pairs
        ]


def _pass_more_often(judge: Judge, exchanged: npt.NDArray[np.bool_]) -> bool:
    """Tells whether probes labelled 0 pass more often than exchanged ones, beyond chance.

    Those that pass less often are not looked for: people also label what is wrong at a glance, and
    other mismatched pairs are not so.
    """
    passes = judge.labelled.corrected_similarity >= CUTOFF
    groups = [passes[rows & ~judge.labelled.matched] for rows in (exchanged, ~exchanged)]
    if len(groups[1]) < _ENOUGH_REJECTED:
        return False
    from scipy.stats import fisher_exact  # takes longer to load than a purge to decide

    table = np.array([[group.sum(), (~group).sum()] for group in groups])
    return bool(fisher_exact(table, alternative="less").pvalue < _BY_CHANCE)


def _fit_judges(
    ground: _Ground,
    frozen: CrossScored | None,
    *,
    contrast_alone: bool = False,
) -> tuple[Judges, Scores]:
    """Fits both judges.

    Args:
        ground: What to.
        frozen: What else says the noise rate, where there is frozen evidence.
        contrast_alone: Whether they hear of the evidence of a pair alone only its belief and how
            it stands among alternatives.

    Returns:
        The judges, and the corrected similarities of the pool without its probes.
    """
    evidence, belief, noisy, probes = ground[:4]
    outside = ground.outside
    of_fitted = partial(evidence.of_rows, belief=belief, contrast_alone=contrast_alone)
    of_unseen = partial(evidence.of_rows, contrast_alone=contrast_alone)
    known = of_fitted(noisy)
    priors = ground.priors(contrast_alone=contrast_alone)
    of_others = [prior._replace(echo=None) for prior in priors]
    nothing = np.zeros_like(evidence.similarity)
    unbelieved = of_unseen(outside, belief=nothing)
    fitted = fit_judge(
        of_fitted(probes),
        evidence.similarity[probes],
        ground.probe_matched,
        pool_evidence=known,
        priors=priors,
        seed=ground.seed,
        grows=ground.grows,
        outside=Outside(unbelieved, ground.outside_matched) if ground.exchanged else None,
        noise=None if frozen is None else estimate_noise_rate(frozen),
    )
    # There is no pool of unseen pairs yet: the noise rate of the pool stands for theirs.
    unseen = fit_judge(
        of_unseen(outside),
        evidence.similarity[outside],
        ground.outside_matched,
        pool_evidence=of_unseen(noisy),
        priors=of_others,
        seed=ground.seed,
        repeats=ground.repeats,
        noise_rate=fitted.noise_rate,
    )
    if evidence.siblings is None:
        return Judges(fitted, unseen), fitted.corrected_similarity(known)
    # Only pairs of the pool vouch for others.
    vouching = np.zeros(len(evidence.similarity), dtype=np.float32)
    vouching[noisy] = fitted.corrected_similarity(known)
    for _ in range(SIBLING_ROUNDS):
        vouching[probes] = fitted.labelled.corrected_similarity
        agreement = evidence.siblings.agreement(vouching)
        fitted = with_siblings(
            fitted,
            of_fitted(probes),
            agreement[probes],
            pool_evidence=known,
            pool_agreement=agreement[noisy],
            priors=priors,
            seed=ground.seed,
        )
        vouching[noisy] = fitted.corrected_similarity(known, agreement[noisy])
    unseen = with_siblings(
        unseen,
        of_unseen(outside),
        agreement[outside],
        pool_evidence=of_unseen(noisy),
        pool_agreement=agreement[noisy],
        priors=of_others,
        seed=ground.seed,
    )
    return Judges(fitted, unseen), vouching[noisy]


def _heed_near_misses(judges: Judges, ground: _Ground, frozen: CrossScored | None) -> Judges:
    """Lets the pool decide on clean probabilities where it contradicts the exchanged probes.

    What tells exchanged captions apart best is blind to near misses. How much better a pair fits
    than its image and its caption fit others is not: judges that hear that alone look for them,
    and judge where there are any.
    """
    wary, pool = _fit_judges(ground, frozen, contrast_alone=True)
    labelled = wary.fitted.labelled
    scores, matched = labelled.corrected_similarity, labelled.matched
    views = [View(scores[matched], scores[~matched], pool)]
    if frozen is not None:
        views.append(View(frozen.matched, frozen.mismatched, frozen.pool))
    found = find_near_misses(views, rate=judges.fitted.noise_rate, seed=ground.seed)
    if found is None:
        return judges
    # As with the noise rate, the pool stands for pairs that are still to come.
    return Judges(wary.fitted.heeding(found), wary.unseen.heeding(found))


def _score_by_frozen(frozen: FrozenEvidence, ground: _Ground, data: DeviceTables) -> CrossScored:
    """Scores the pool and all trusted pairs by their frozen evidence alone."""
    tables = data.tables
    planted = tables.pool.take(slice(ground.noisy.stop, None))
    own = planted.take(torch.from_numpy(np.flatnonzero(tables.probe_matched)))
    rejected = np.flatnonzero(~(tables.probe_matched | tables.probe_exchanged))
    matched = join_pairs(tables.meta.matched, tables.held_out.matched, own)
    mismatched = join_pairs(
        tables.meta.mismatched,
        tables.held_out.mismatched,
        planted.take(torch.from_numpy(rejected)),
    )
    if ground.exchanged:
        generator = torch.Generator().manual_seed(ground.seed)
        mismatched = mismatched_of(matched, mismatched, generator)
    trusted = (
        data.evidence(frozen, data.on_device(pairs)).cpu().numpy()
        for pairs in (matched, mismatched)
    )
    return cross_score(ground.evidence.frozen[ground.noisy], *trusted, seed=ground.seed)
