"""The look before training: what frozen features and trusted pairs say of the pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from nccleaner.config import RunConfig
from nccleaner.pipeline.device import DeviceTables
from nccleaner.pipeline.labelled import EXCHANGES
from nccleaner.purify.frozen import FrozenEvidence, FrozenPool
from nccleaner.purify.mixture import BetaMixture
from nccleaner.purify.noise import cross_score, estimate_noise_rate
from nccleaner.purify.rounds import Belief, first_belief
from nccleaner.purify.siblings import Siblings
from nccleaner.train.pairs import Pairs, exchange_captions, join_pairs

# Rounds of the frozen evidence: the first believes all pairs, the next what the last one found.
FROZEN_ROUNDS = 2
# Rounds in which siblings are weighed by what they said in the last one.
_SIBLING_ROUNDS = 2

# Captions that are wrong together agree with each other: siblings then find fewer mismatched pairs
# than the rest of the evidence does. Beyond this difference of the rates they are not heard.
_MAX_CONTRADICTION = 0.1
_MIN_WITH_SIBLINGS = 20

Columns = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Look:
    """What was found.

    Attributes:
        frozen: The frozen evidence, fitted to the pool.
        belief: What it says of the pool, together with siblings where they are heard.
        siblings: Whether agreement with the other captions of an image is evidence here.
    """

    frozen: FrozenEvidence
    belief: Belief
    siblings: bool


def look_before_training(
    data: DeviceTables,
    config: RunConfig,
    fit: Callable[..., BetaMixture],
    on_round: Callable[[], None],
) -> Look:
    """Fits the frozen evidence; from the second round on weighted by what the last one believes."""
    generator = torch.Generator().manual_seed(config.seed)
    meta = data.tables.meta
    matched = data.on_device(meta.matched)
    mismatched = data.on_device(mismatched_of(meta.matched, meta.mismatched, generator))
    parts = (data.pool, matched, mismatched)
    pool = FrozenPool.of(data.frozen(data.pool))
    weights = torch.ones(len(data.pool), device=pool.identities.device)
    for _ in range(FROZEN_ROUNDS):
        frozen = FrozenEvidence.fit(
            pool,
            weights=weights,
            references=config.purify.references,
            neighbours=config.purify.neighbours,
            shrinkage=config.purify.shrinkage,
            generator=generator,
        )
        evidence = [data.evidence(frozen, pairs).cpu().numpy() for pairs in parts]
        belief = first_belief(*evidence, fit=fit)
        weights = torch.from_numpy(belief.clean_probability).to(weights.device)
        on_round()
    siblings = Siblings.among(join_pairs(*parts), data.features.texts, frozen.of_texts)
    if not siblings.exist():
        return Look(frozen, belief, siblings=False)
    others = np.zeros(len(matched) + len(mismatched))
    for round_ in range(_SIBLING_ROUNDS):
        agreement = siblings.agreement(np.append(belief.clean_probability, others))
        columns = _split(agreement, [len(pairs) for pairs in parts])
        if round_ == 0 and not _agree_on_noise_rate(evidence, columns, seed=config.seed):
            return Look(frozen, belief, siblings=False)
        both = (
            np.column_stack([rows, np.nan_to_num(column)])
            for rows, column in zip(evidence, columns, strict=True)
        )
        belief = first_belief(*both, fit=fit)
    return Look(frozen, belief, siblings=True)


def _agree_on_noise_rate(evidence: list[Columns], agreement: list[Columns], *, seed: int) -> bool:
    """Tells whether siblings find as many mismatched pairs as the other evidence, or more."""
    have = [~np.isnan(column) for column in agreement]
    if min(rows.sum() for rows in have) < _MIN_WITH_SIBLINGS:
        return False
    both = (
        (rows[some] for rows, some in zip(evidence, have, strict=True)),
        (column[some, None] for column, some in zip(agreement, have, strict=True)),
    )
    by_rest, by_siblings = (
        estimate_noise_rate(cross_score(*parts, seed=seed)).value for parts in both
    )
    return by_rest - by_siblings <= _MAX_CONTRADICTION


def _split(values: Columns, lengths: list[int]) -> list[Columns]:
    return np.split(values, np.cumsum(lengths)[:-1])


def mismatched_of(matched: Pairs, labelled: Pairs, generator: torch.Generator) -> Pairs:
    """Returns mismatched pairs made by exchanging captions, and those that a person labelled."""
    made = [exchange_captions(matched, generator=generator) for _ in range(EXCHANGES)]
    return join_pairs(*made, labelled)
