"""Fits judges to labelled pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nccleaner.purify.heads import EvidenceHead, Prior, balanced, out_of_fold, stratified_folds
from nccleaner.purify.judge import Bools, Judge, Labelled, joined, mean_score
from nccleaner.purify.noise import CrossScored, NoiseRate, estimate_noise_rate
from nccleaner.purify.posterior import Posterior, Scores
from nccleaner.purify.shares import Floats

# Labelled pairs of each kind with siblings; fewer cannot say what siblings are worth.
_MIN_WITH_SIBLINGS = 20
# Weight of their agreement that is expected, beside those of `Evidence`.
_AGREEMENT = 1.0
# Weight of a labelled pair that stood outside, beside one that stood in the pool: that it scores as
# if it had stood there and had not been believed is nearly true.
_OUTSIDE = 0.5


class Outside(NamedTuple):
    """Labelled pairs that training never saw, as examples for a judge of pairs that it did.

    Attributes:
        evidence: [u, e] for each network, with a belief of 0.
        matched: [u] bool, at least one of each.
    """

    evidence: Sequence[npt.ArrayLike]
    matched: Bools


def fit_judge(
    labelled_evidence: Sequence[npt.ArrayLike],
    labelled_similarity: Scores,
    matched: Bools,
    *,
    pool_evidence: Sequence[npt.ArrayLike],
    priors: Sequence[Prior],
    seed: int,
    repeats: int = 1,
    grows: bool = True,
    outside: Outside | None = None,
    noise: NoiseRate | None = None,
    noise_rate: float | None = None,
) -> Judge:
    """Fits a judge that does not look at siblings.

    Labelled pairs are scored by heads that were fitted without them (cross-validation): heads judge
    the pairs that they learned from too well, and every estimate that follows would be too rosy.

    Args:
        labelled_evidence: [n, e] for each network, of labelled pairs.
        labelled_similarity: [n].
        matched: [n] bool, at least two of each.
        pool_evidence: [m, e] for each network, of the pool without what is labelled; it sets the
            scale of the evidence, but for the belief, whose scale is fixed.
        priors: For each network, of its evidence. They tell whether the first kind is how much
            training believed the pair. Training repeats what it is told: the same evidence says
            less of a pair that was believed, so that this kind speaks against a match.
        seed: Of the folds.
        repeats: How many of the mismatched pairs were made of one trusted pair.
        grows: Whether more labels would mean more mismatched pairs.
        outside: Other labelled pairs to learn from.
        noise: The noise rate by other evidence, to be heeded beside what these scores say of it.
        noise_rate: The noise rate to assume where the judged pairs are not the pool.
    """
    heads, corrected = _fit_heads(
        labelled_evidence,
        matched,
        pool_evidence=pool_evidence,
        priors=priors,
        outside=outside,
        seed=seed,
    )
    if noise_rate is None:
        parts = mean_score(heads, pool_evidence), corrected[matched], corrected[~matched]
        own = estimate_noise_rate(CrossScored(*(part.astype(np.float64) for part in parts)))
        if noise is not None:
            noise = replace(noise, beside=own)
        noise_rate = (noise or own).value
    return Judge(
        heads,
        (),
        priors[0].echo is not None,
        noise_rate,
        noise,
        Labelled(
            matched,
            labelled_similarity,
            corrected,
            Posterior.by_bayes(noise_rate)(corrected),
            repeats,
            grows,
        ),
    )


def with_siblings(
    judge: Judge,
    labelled_evidence: Sequence[npt.ArrayLike],
    labelled_agreement: Scores,
    *,
    pool_evidence: Sequence[npt.ArrayLike],
    pool_agreement: Scores,
    priors: Sequence[Prior],
    seed: int,
) -> Judge:
    """Returns a judge with heads that also hear siblings, where it can be learned how.

    Args:
        judge: Without them.
        labelled_evidence: What `heads` were fitted to.
        labelled_agreement: [n], with siblings; not a number where there is none.
        pool_evidence: What set their scale.
        pool_agreement: Likewise.
        priors: For each network, of the evidence without the agreement.
        seed: Of the folds.
    """
    have = ~np.isnan(labelled_agreement)
    matched = judge.labelled.matched[have]
    if min(matched.sum(), (~matched).sum()) < _MIN_WITH_SIBLINGS:
        return judge
    heads, unbiased = _fit_heads(
        joined(labelled_evidence, labelled_agreement, have),
        matched,
        pool_evidence=joined(pool_evidence, pool_agreement, ~np.isnan(pool_agreement)),
        priors=[prior.beside(_AGREEMENT) for prior in priors],
        seed=seed,
    )
    corrected = judge.labelled.corrected_similarity.copy()
    corrected[have] = unbiased
    return replace(
        judge,
        sibling_heads=heads,
        labelled=replace(
            judge.labelled,
            corrected_similarity=corrected,
            clean_probability=judge.clean_probability(corrected),
        ),
    )


def _fit_heads(
    labelled_evidence: Sequence[npt.ArrayLike],
    matched: Bools,
    *,
    pool_evidence: Sequence[npt.ArrayLike],
    priors: Sequence[Prior],
    outside: Outside | None = None,
    seed: int,
) -> tuple[tuple[EvidenceHead, ...], Scores]:
    """Returns the heads, and the labelled pairs' scores by heads that were fitted without them."""
    folds = stratified_folds(matched, np.random.default_rng(seed))
    labels, weights = matched, balanced(matched)
    learned_from = [np.asarray(rows) for rows in labelled_evidence]
    if outside is not None:
        # Either group by itself holds as much of both labels: where a pair stood tells nothing.
        count = 2 * _OUTSIDE * outside.matched.sum() / len(outside.matched)
        weights = np.append(weights, count * balanced(outside.matched))
        labels = np.append(labels, outside.matched)
        folds = np.append(folds, np.full(len(outside.matched), -1))
        learned_from = [
            np.concatenate([rows, more])
            for rows, more in zip(learned_from, outside.evidence, strict=True)
        ]
    heads, unbiased = [], []
    for rows, pool, prior in zip(learned_from, pool_evidence, priors, strict=True):
        mean, scale = _scale(pool, hears_belief=prior.echo is not None)
        heads.append(
            EvidenceHead.fit(rows, labels, mean=mean, scale=scale, prior=prior, weights=weights)
        )
        unbiased.append(
            out_of_fold(
                rows, labels, mean=mean, scale=scale, folds=folds, prior=prior, weights=weights
            )
        )
    return tuple(heads), np.mean(unbiased, axis=0).astype(np.float32)


def _scale(pool: npt.ArrayLike, *, hears_belief: bool) -> tuple[Floats, Floats]:
    rows = np.asarray(pool, dtype=np.float64)
    mean, scale = rows.mean(axis=0), rows.std(axis=0) + 1e-9
    if hears_belief:
        # Where nearly all is believed its deviation is near 0, and would make much of a little.
        mean[0] = scale[0] = 0.5
    return mean, scale
