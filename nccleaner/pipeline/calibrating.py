"""What the trusted pairs decide: the belief before training, the noise rate, the two judges."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from nccleaner.config import RunConfig
from nccleaner.pipeline.device import DeviceTables
from nccleaner.purify.frozen import FrozenEvidence
from nccleaner.purify.judge import Judge, fit_judge
from nccleaner.purify.mixture import Beta, BetaMixture
from nccleaner.purify.noise import NoiseRate, estimate_noise_rate
from nccleaner.purify.rounds import Belief, first_belief
from nccleaner.purify.scoring import Evidence, Judges, Scorer
from nccleaner.train.pairs import Pairs, exchange_captions

# Rounds of the frozen evidence: the first believes all pairs, the next what the last one found.
FROZEN_ROUNDS = 2

# Mismatched pairs that are made of one trusted pair; its caption suits few other images.
_EXCHANGES = 3


def look_before_training(
    data: DeviceTables,
    config: RunConfig,
    fit: Callable[..., BetaMixture],
    on_round: Callable[[], None],
) -> tuple[FrozenEvidence, Belief]:
    """Fits the frozen evidence; from the second round on weighted by what the last one believes."""
    generator = torch.Generator().manual_seed(config.seed)
    pool = data.frozen(data.pool)
    meta = data.tables.meta
    matched = data.frozen(data.on_device(meta.matched))
    mismatched = data.frozen(data.on_device(_mismatched(meta.matched, meta.mismatched, generator)))
    weights = torch.ones(len(pool.images), device=pool.images.device)
    for _ in range(FROZEN_ROUNDS):
        evidence = FrozenEvidence.fit(
            pool,
            weights=weights,
            references=config.purify.references,
            neighbours=config.purify.neighbours,
            penalty=config.purify.ridge,
            generator=generator,
        )
        belief = first_belief(
            *(evidence.of(pairs).cpu().numpy() for pairs in (pool, matched, mismatched)), fit=fit
        )
        weights = torch.from_numpy(belief.clean_probability).to(weights.device)
        on_round()
    return evidence, belief


def calibrate(
    scorer: Scorer,
    data: DeviceTables,
    config: RunConfig,
    fit: Callable[..., BetaMixture],
    on_judge: Callable[[], None],
) -> Judges:
    """Fits the judge of the pool to the planted probes, that of other pairs to the held-out."""
    noisy = len(data.pool) - data.probes
    pool = scorer.gather(data.features, data.pool, identities=data.identities)
    of_pool = [evidence[:noisy] for evidence in pool.of_networks]
    noise = None if scorer.frozen is None else _noise_rate(scorer.frozen, data, config.seed)
    fitted = fit_judge(
        [evidence[noisy:] for evidence in pool.of_networks],
        pool.similarity[noisy:],
        data.tables.probe_matched,
        pool_evidence=of_pool,
        fit=fit,
        seed=config.seed,
        noise=noise,
    )
    on_judge()
    held_out = data.tables.held_out
    generator = torch.Generator().manual_seed(config.seed)
    matched = data.on_device(held_out.matched)
    mismatched = data.on_device(_mismatched(held_out.matched, held_out.mismatched, generator))
    labelled = _joined(matched, mismatched)
    evidence: Evidence = scorer.gather(data.features, labelled, identities=data.identities)
    unseen = _judge_of_unseen(evidence, len(matched), of_pool, fitted, config)
    on_judge()
    return Judges(fitted, unseen)


def _noise_rate(frozen: FrozenEvidence, data: DeviceTables, seed: int) -> NoiseRate:
    """Estimates the pool's noise rate from the frozen evidence and all trusted pairs."""
    noisy = len(data.pool) - data.probes
    tables = data.tables
    probes = tables.pool.take(torch.arange(noisy, len(tables.pool)))
    own = probes.take(torch.from_numpy(np.flatnonzero(tables.probe_matched)))
    matched = _joined(tables.meta.matched, tables.held_out.matched, own)
    labelled = _joined(tables.meta.mismatched, tables.held_out.mismatched)
    mismatched = _mismatched(matched, labelled, torch.Generator().manual_seed(seed))
    pool = data.pool.take(torch.arange(noisy))
    evidence = (
        frozen.of(data.frozen(pairs)).cpu().numpy()
        for pairs in (pool, data.on_device(matched), data.on_device(mismatched))
    )
    return estimate_noise_rate(*evidence, seed=seed)


def _joined(*parts: Pairs) -> Pairs:
    return Pairs(
        torch.cat([pairs.image_rows for pairs in parts]),
        torch.cat([pairs.text_rows for pairs in parts]),
    )


def _judge_of_unseen(
    evidence: Evidence,
    matched: int,
    of_pool: list[npt.NDArray[np.float32]],
    fitted: Judge,
    config: RunConfig,
) -> Judge:
    """There is no pool of unseen pairs yet: components of the held-out, the pool's noise rate."""

    def components(
        pool: npt.ArrayLike,  # noqa: ARG001
        *,
        matched: npt.NDArray[np.float64],
        mismatched: npt.NDArray[np.float64],
    ) -> BetaMixture:
        return BetaMixture(Beta.fit(matched), Beta.fit(mismatched), fitted.noise_rate)

    return fit_judge(
        evidence.of_networks,
        evidence.similarity,
        np.arange(len(evidence.similarity)) < matched,
        pool_evidence=of_pool,
        fit=components,
        seed=config.seed,
    )


def _mismatched(matched: Pairs, labelled: Pairs, generator: torch.Generator) -> Pairs:
    """Mismatched pairs made by exchanging captions, and those that a person labelled."""
    made = [exchange_captions(matched, generator=generator) for _ in range(_EXCHANGES)]
    return _joined(*made, labelled)
