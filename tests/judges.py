"""Judges of a made-up pool, and what they learn from."""

from __future__ import annotations

import numpy as np

from nccleaner.purify.fit_judge import Outside, fit_judge, with_siblings
from nccleaner.purify.heads import Prior

RATE = 0.3
DEAF = [Prior.equal(2)] * 2
HEARING = [Prior(np.ones(2), np.zeros(2))] * 2  # nothing is known of the echo
NO_EVIDENCE = [Prior.equal(8)] * 2


def evidence_of(matched, seed):
    """Two networks that see noisy copies of the same two kinds of evidence."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(len(matched), 2)) + np.where(matched, 0.8, -0.8)[:, None]
    return [(base + 0.3 * rng.normal(size=base.shape)).astype(np.float32) for _ in range(2)]


def agreement_of(matched, seed, without=0.25):
    """What siblings say; a share of the pairs has none."""
    rng = np.random.default_rng(seed)
    agreement = rng.normal(size=len(matched)) + np.where(matched, 0.8, -0.8)
    return np.where(rng.random(len(matched)) < without, np.nan, agreement).astype(np.float32)


CLEAN = np.random.default_rng(2).random(3000) > RATE


def fit(labelled=300, seed=0, **noise):
    matched = np.arange(labelled) % 2 == 0
    evidence = evidence_of(matched, seed + 1)
    pool = evidence_of(CLEAN, seed + 3)
    similarity = np.tanh(evidence[0].mean(axis=1)).astype(np.float32)
    judge = fit_judge(
        evidence, similarity, matched, pool_evidence=pool, priors=DEAF, seed=seed, **noise
    )
    return judge, pool


def hear(judge, pool, labelled=300, without=0.25, seed=0):
    """A judge that also hears siblings, and what those say of the pool."""
    matched = np.arange(labelled) % 2 == 0
    of_pool = agreement_of(CLEAN, seed + 5)
    hearing = with_siblings(
        judge,
        evidence_of(matched, seed + 1),
        agreement_of(matched, seed + 4, without),
        pool_evidence=pool,
        pool_agreement=of_pool,
        priors=DEAF,
        seed=seed,
    )
    return hearing, of_pool


def echo(matched, seed, *, right=0.2):
    """Evidence of two networks that also repeat what training was told, and what that was."""
    rng = np.random.default_rng(seed + 10)
    belief = np.clip(
        0.5 + right * np.where(matched, 1, -1) + 0.4 * rng.normal(size=len(matched)), 0, 1
    )
    heard = [rows + 3 * (belief - 0.5)[:, None] for rows in evidence_of(matched, seed)]
    return [np.column_stack([belief, rows]).astype(np.float32) for rows in heard]


def untold(matched, seed, heavier=1):
    """The same two networks on pairs that training never saw: no belief, and no echo."""
    matched = np.concatenate([matched, *[matched[~matched]] * (heavier - 1)])
    return Outside(
        [np.column_stack([0 * rows[:, 0], rows - 1.5]) for rows in evidence_of(matched, seed)],
        matched,
    )
