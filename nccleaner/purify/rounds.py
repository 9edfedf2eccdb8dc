"""Purification during training: how much each pair of the pool is believed, round by round.

The paper starts the mixture from the scores of the trusted pairs [P]. Networks score what they are
trained on too well, mismatched pairs too, so that start is wrong for the pool (METHOD 4): on Open
Clip Art it found no mismatched pair at all. Where there are frozen features, the trusted pairs
decide through those instead [O]: they fit the head over the frozen evidence, its posterior says for
each pair of the pool where to begin, and both components are then fitted to the pool's own scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nccleaner.purify.heads import EvidenceHead, Prior
from nccleaner.purify.mixture import BetaMixture, histogram, log_ratio, refit

Scores = npt.NDArray[np.float32]

_ROUNDS = 5
# Odds beyond 99 to 1 would outvote everything that is learned later.
_BOUND = 0.01


@dataclass(frozen=True, slots=True)
class Belief:
    """What is believed of the pool before training.

    Attributes:
        clean_probability: [n], of each pair of the pool.
        mixture: The mixture behind it.
    """

    clean_probability: Scores
    mixture: BetaMixture


def first_belief(
    pool: npt.ArrayLike,
    matched: npt.ArrayLike,
    mismatched: npt.ArrayLike,
    *,
    fit: Callable[..., BetaMixture],
) -> Belief:
    """Judges the pool by frozen evidence alone.

    Args:
        pool: [n, e] evidence of the pairs of the pool.
        matched: [m, e] of trusted matched pairs that are not in the pool.
        mismatched: [k, e] of mismatched ones.
        fit: `fit_mixture` with its settings bound.
    """
    evidence = np.asarray(pool, dtype=np.float64)
    labelled = np.concatenate([np.asarray(matched), np.asarray(mismatched)])
    is_matched = np.arange(len(labelled)) < len(np.asarray(matched))
    head = EvidenceHead.fit(
        labelled,
        is_matched,
        mean=evidence.mean(axis=0),
        scale=evidence.std(axis=0) + 1e-9,
        prior=Prior.equal(evidence.shape[1]),
    )
    scores = head(evidence)
    mixture = fit(
        histogram(scores),
        matched=histogram(head(matched)),
        mismatched=histogram(head(mismatched)),
    )
    return Belief(mixture.clean_probability(scores), mixture)


def next_belief(first: Scores, scores: Scores) -> Scores:
    """Judges the pool by what a network picks and the first belief together.

    Components are fitted to the pool's scores weighted by the current belief, and the belief
    becomes the posterior whose prior odds are the first belief's; a few rounds of this are EM.

    Args:
        first: [n], `clean_probability` of the first belief.
        scores: [n] in (0, 1), how likely the network picks each pair among others.

    Returns:
        [n], in [0, 1].
    """
    bounded = np.clip(first, _BOUND, 1 - _BOUND).astype(np.float64)
    prior_odds = np.log(bounded / (1 - bounded))
    belief = bounded
    for _ in range(_ROUNDS):
        mixture = refit(scores, belief)
        if mixture.matched.mean <= mixture.mismatched.mean:
            return first  # the network contradicts all evidence: it has learned nothing yet
        odds = prior_odds + log_ratio(mixture, scores)
        belief = 1 / (1 + np.exp(-np.clip(odds, -50, 50)))
    return belief.astype(np.float32)


def trusted_belief(
    pool: Scores, matched: Scores, mismatched: Scores, *, fit: Callable[..., BetaMixture]
) -> Scores:
    """Judges the pool by the mixture that the trusted pairs start, as in the paper [P].

    Used where the text encoder is trained and there are no frozen features of captions.
    """
    mixture = fit(histogram(pool), matched=histogram(matched), mismatched=histogram(mismatched))
    return mixture.clean_probability(pool)
