"""What the trusted pairs decide after training: the noise rate, and the two judges."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from nccleaner.config import RunConfig
from nccleaner.pipeline.device import DeviceTables
from nccleaner.pipeline.looking import mismatched_of
from nccleaner.purify.evidence import Evidence
from nccleaner.purify.frozen import FrozenEvidence
from nccleaner.purify.judge import Judges, fit_judge
from nccleaner.purify.near_misses import View, find_near_misses
from nccleaner.purify.noise import CrossScored, cross_score, estimate_noise_rate
from nccleaner.purify.scoring import SIBLING_ROUNDS, Scorer
from nccleaner.purify.siblings import Siblings
from nccleaner.train.cotrain import diverged
from nccleaner.train.pairs import Pairs, join_pairs


def calibrate(
    scorer: Scorer,
    data: DeviceTables,
    config: RunConfig,
    *,
    belief: npt.NDArray[np.float32],
    on_judge: Callable[[], None],
) -> Judges:
    """Fits the judge of the pool to the planted probes, that of other pairs to the held-out.

    Args:
        scorer: Trained; gets its alternatives here, and its judges from what is returned.
        data: Pool and trusted pairs.
        config: Seed.
        belief: [pool] in [0, 1], how much training believed each pair.
        on_judge: Called after each judge.

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
    noisy = slice(0, len(data.pool) - data.probes)
    probes = slice(noisy.stop, len(data.pool))
    unseen = slice(probes.stop, None)
    frozen = None
    if scorer.frozen is not None:
        frozen = _score_by_frozen(scorer.frozen, data, evidence.frozen[noisy], config.seed)
    fitted_judge = fit_judge(
        evidence.of_rows(probes, belief),
        evidence.similarity[probes],
        data.tables.probe_matched,
        pool_evidence=evidence.of_rows(noisy, belief),
        hears_belief=True,
        seed=config.seed,
        noise=None if frozen is None else estimate_noise_rate(frozen),
    )
    on_judge()
    # There is no pool of unseen pairs yet: the noise rate of the pool stands for theirs.
    unseen_judge = fit_judge(
        evidence.of_rows(unseen),
        evidence.similarity[unseen],
        np.arange(len(matched) + len(mismatched)) < len(matched),
        pool_evidence=evidence.of_rows(noisy),
        seed=config.seed,
        noise_rate=fitted_judge.noise_rate,
    )
    judges = Judges(fitted_judge, unseen_judge)
    if evidence.siblings is None:
        scores = fitted_judge.corrected_similarity(evidence.of_rows(noisy, belief))
    else:
        judges, scores = _hear_siblings(
            judges, evidence, evidence.siblings, belief, noisy, probes, config.seed
        )
    if config.purify.near_misses:
        judges = _heed_near_misses(judges, scores, frozen, config.seed)
    on_judge()
    return judges


def _heed_near_misses(
    judges: Judges, pool: npt.NDArray[np.float32], frozen: CrossScored | None, seed: int
) -> Judges:
    """Lets the pool decide on clean probabilities where it contradicts the exchanged probes."""
    labelled = judges.fitted.labelled
    scores, matched = labelled.corrected_similarity, labelled.matched
    views = [View(scores[matched], scores[~matched], pool)]
    if frozen is not None:
        views.append(View(frozen.matched, frozen.mismatched, frozen.pool))
    found = find_near_misses(views, rate=judges.fitted.noise_rate, seed=seed)
    if found is None:
        return judges
    # As with the noise rate, the pool stands for pairs that are still to come.
    return Judges(judges.fitted.heeding(found), judges.unseen.heeding(found))


def _hear_siblings(
    judges: Judges,
    evidence: Evidence,
    siblings: Siblings,
    belief: npt.NDArray[np.float32],
    noisy: slice,
    probes: slice,
    seed: int,
) -> tuple[Judges, npt.NDArray[np.float32]]:
    """Teaches both judges what siblings are worth; only pairs of the pool vouch for others.

    Returns:
        The judges, and the corrected similarities of the pool without its probes.
    """
    of_pool = evidence.of_rows(noisy, belief)
    fitted, unseen = judges.fitted, judges.unseen
    vouching = np.zeros(len(evidence.similarity), dtype=np.float32)
    vouching[noisy] = fitted.corrected_similarity(of_pool)
    for _ in range(SIBLING_ROUNDS):
        vouching[probes] = fitted.labelled.corrected_similarity
        agreement = siblings.agreement(vouching)
        fitted = fitted.with_siblings(
            evidence.of_rows(probes, belief),
            agreement[probes],
            pool_evidence=of_pool,
            pool_agreement=agreement[noisy],
            seed=seed,
        )
        vouching[noisy] = fitted.corrected_similarity(of_pool, agreement[noisy])
    rest = slice(probes.stop, None)
    unseen = unseen.with_siblings(
        evidence.of_rows(rest),
        agreement[rest],
        pool_evidence=evidence.of_rows(noisy),
        pool_agreement=agreement[noisy],
        seed=seed,
    )
    return Judges(fitted, unseen), vouching[noisy]


def _score_by_frozen(
    frozen: FrozenEvidence, data: DeviceTables, pool: npt.NDArray[np.float32], seed: int
) -> CrossScored:
    """Scores the pool and all trusted pairs by their frozen evidence alone."""
    tables = data.tables
    noisy = len(tables.pool) - data.probes
    own = torch.from_numpy(noisy + np.flatnonzero(tables.probe_matched))
    matched = join_pairs(tables.meta.matched, tables.held_out.matched, tables.pool.take(own))
    labelled = join_pairs(tables.meta.mismatched, tables.held_out.mismatched)
    mismatched: Pairs = mismatched_of(matched, labelled, torch.Generator().manual_seed(seed))
    trusted = (
        data.evidence(frozen, data.on_device(pairs)).cpu().numpy()
        for pairs in (matched, mismatched)
    )
    return cross_score(pool, *trusted, seed=seed)
