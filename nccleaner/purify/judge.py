"""The judge: from evidence to corrected similarity and clean probability, with its uncertainty.

There are two. One judges pairs that the networks were trained on and learned from planted probes;
the other judges the rest and learned from held-out trusted pairs (METHOD 4) [O].

Clean probabilities are Bayes' rule [O]: heads are fitted with both labels weighing the same, so
their odds are those of as many mismatched as matched pairs, and the noise rate shifts them. The
paper takes the posterior of the Beta mixture [P]; scores of trained networks pile up at both ends,
where Beta distributions fit badly (docs/decisions/0009). Where the pool contradicts Bayes' rule,
the pool itself decides (`near_misses`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nccleaner.purify.heads import EvidenceHead, out_of_fold, stratified_folds
from nccleaner.purify.near_misses import NearMisses
from nccleaner.purify.noise import CUTOFF, NoiseRate, solve_rate
from nccleaner.purify.posterior import Posterior, Scores
from nccleaner.purify.shares import Floats

Bools = npt.NDArray[np.bool_]

# Labelled pairs of each kind with siblings; fewer cannot say what siblings are worth.
_MIN_WITH_SIBLINGS = 20


@dataclass(frozen=True, slots=True)
class Labelled:
    """Scores of the labelled pairs that a judge learned from; they say what a cut-off costs.

    Attributes:
        matched: [n] bool.
        similarity: [n] in [-1, 1].
        corrected_similarity: [n] in [0, 1].
        clean_probability: [n] in [0, 1].
        repeats: How many of the mismatched pairs were made of one trusted pair; together they tell
            about as much as one.
    """

    matched: Bools
    similarity: Scores
    corrected_similarity: Scores
    clean_probability: Scores
    repeats: int = 1

    def column(self, name: str) -> Scores:
        """Returns a score by the name it has in the output."""
        scores: Scores = getattr(self, name)
        return scores


@dataclass(frozen=True, slots=True)
class Judge:
    """Judges pairs of one standing.

    Attributes:
        heads: One for each network, over the evidence of a pair alone.
        sibling_heads: One for each network, over the same and the agreement with siblings; empty
            where too few labelled pairs have siblings, or siblings cannot be trusted.
        hears_belief: Whether the first kind of evidence is how much training believed the pair.
        noise_rate: Share of mismatched pairs that clean probabilities assume, in [0, 1].
        noise: Where that share comes from by Bayes' rule; None: from how many pairs pass, by the
            labelled pairs.
        labelled: What it learned from, scored by heads that did not learn from it.
        near_misses: What decides instead of Bayes' rule, where the pool contradicts it. Then the
            heads hear of the evidence only the belief, the contrast and the siblings.
    """

    heads: tuple[EvidenceHead, ...]
    sibling_heads: tuple[EvidenceHead, ...]
    hears_belief: bool
    noise_rate: float
    noise: NoiseRate | None
    labelled: Labelled
    near_misses: NearMisses | None = None

    @property
    def posterior(self) -> Posterior:
        """From corrected similarities to clean probabilities."""
        if self.near_misses is not None:
            return self.near_misses.posterior
        return Posterior.by_bayes(self.noise_rate)

    def corrected_similarity(
        self, evidence: Sequence[npt.ArrayLike], agreement: Scores | None = None
    ) -> Scores:
        """Returns the mean over networks, [n] in [0, 1].

        Args:
            evidence: [n, e] of each network.
            agreement: [n], with siblings; not a number where a pair has none. None: do not look.
        """
        scores = _mean(self.heads, evidence)
        if self.sibling_heads and agreement is not None:
            have = ~np.isnan(agreement)
            scores[have] = _mean(self.sibling_heads, _joined(evidence, agreement, have))
        return scores

    def clean_probability(self, corrected: npt.ArrayLike) -> Scores:
        """Returns the posterior that pairs of these corrected similarities are matched, [n]."""
        return self.posterior(corrected)

    def heeding(self, near_misses: NearMisses) -> Judge:
        """Returns this judge with the posterior that the pool gives."""
        heeding = replace(self, noise_rate=near_misses.rate, near_misses=near_misses)
        clean = heeding.clean_probability(self.labelled.corrected_similarity)
        return replace(heeding, labelled=replace(self.labelled, clean_probability=clean))

    def with_siblings(
        self,
        labelled_evidence: Sequence[npt.ArrayLike],
        labelled_agreement: Scores,
        *,
        pool_evidence: Sequence[npt.ArrayLike],
        pool_agreement: Scores,
        seed: int,
    ) -> Judge:
        """Returns this judge with heads that also hear siblings, where it can be learned how.

        Args:
            labelled_evidence: What `heads` were fitted to.
            labelled_agreement: [n], with siblings; not a number where there is none.
            pool_evidence: What set their scale.
            pool_agreement: Likewise.
            seed: Of the folds.
        """
        have = ~np.isnan(labelled_agreement)
        matched = self.labelled.matched[have]
        if min(matched.sum(), (~matched).sum()) < _MIN_WITH_SIBLINGS:
            return self
        heads, unbiased = _fit_heads(
            _joined(labelled_evidence, labelled_agreement, have),
            matched,
            pool_evidence=_joined(pool_evidence, pool_agreement, ~np.isnan(pool_agreement)),
            hears_belief=self.hears_belief,
            seed=seed,
        )
        corrected = self.labelled.corrected_similarity.copy()
        corrected[have] = unbiased
        return replace(
            self,
            sibling_heads=heads,
            labelled=replace(
                self.labelled,
                corrected_similarity=corrected,
                clean_probability=self.clean_probability(corrected),
            ),
        )

    def to_json(self) -> dict[str, Any]:
        """Returns plain data that `from_json` restores."""
        return {
            "heads": [_plain(asdict(head)) for head in self.heads],
            "sibling_heads": [_plain(asdict(head)) for head in self.sibling_heads],
            "hears_belief": self.hears_belief,
            "noise_rate": self.noise_rate,
            "noise": None if self.noise is None else asdict(self.noise),
            "labelled": _plain(asdict(self.labelled)),
            "near_misses": None if self.near_misses is None else self.near_misses.to_json(),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Judge:
        """Restores a judge."""
        labelled = data["labelled"]
        return Judge(
            tuple(EvidenceHead.from_json(head) for head in data["heads"]),
            tuple(EvidenceHead.from_json(head) for head in data["sibling_heads"]),
            bool(data["hears_belief"]),
            float(data["noise_rate"]),
            NoiseRate.from_json(data["noise"]),
            Labelled(
                np.array(labelled["matched"], dtype=bool),
                np.array(labelled["similarity"], dtype=np.float32),
                np.array(labelled["corrected_similarity"], dtype=np.float32),
                np.array(labelled["clean_probability"], dtype=np.float32),
                int(labelled["repeats"]),
            ),
            NearMisses.from_json(data["near_misses"]),
        )


@dataclass(frozen=True, slots=True)
class Judges:
    """The two standings of a pair.

    Attributes:
        fitted: Judges pairs that the networks were trained on.
        unseen: Judges all others.
    """

    fitted: Judge
    unseen: Judge

    def to_json(self) -> dict[str, Any]:
        """Returns plain data that `from_json` restores."""
        return {"fitted": self.fitted.to_json(), "unseen": self.unseen.to_json()}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Judges:
        """Restores both."""
        return Judges(Judge.from_json(data["fitted"]), Judge.from_json(data["unseen"]))


def fit_judge(
    labelled_evidence: Sequence[npt.ArrayLike],
    labelled_similarity: Scores,
    matched: Bools,
    *,
    pool_evidence: Sequence[npt.ArrayLike],
    hears_belief: bool = False,
    seed: int,
    repeats: int = 1,
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
        hears_belief: Whether the first kind of evidence is how much training believed the pair.
            Training repeats what it is told: the same evidence says less of a pair that was
            believed, so that this kind speaks against a match.
        seed: Of the folds.
        repeats: How many of the mismatched pairs were made of one trusted pair.
        noise: The noise rate, where it is known better than from these scores.
        noise_rate: The noise rate to assume where the judged pairs are not the pool.
    """
    heads, corrected = _fit_heads(
        labelled_evidence,
        matched,
        pool_evidence=pool_evidence,
        hears_belief=hears_belief,
        seed=seed,
    )
    if noise is not None:
        rate = noise.value
    elif noise_rate is not None:
        rate = noise_rate
    else:
        passing = float((_mean(heads, pool_evidence) >= CUTOFF).mean())
        passes = corrected >= CUTOFF
        rate = float(
            solve_rate(passing, float(passes[matched].mean()), float(passes[~matched].mean()))
        )
    return Judge(
        heads,
        (),
        hears_belief,
        rate,
        noise,
        Labelled(
            matched,
            labelled_similarity,
            corrected,
            Posterior.by_bayes(rate)(corrected),
            repeats,
        ),
    )


def _fit_heads(
    labelled_evidence: Sequence[npt.ArrayLike],
    matched: Bools,
    *,
    pool_evidence: Sequence[npt.ArrayLike],
    hears_belief: bool,
    seed: int,
) -> tuple[tuple[EvidenceHead, ...], Scores]:
    """Returns the heads, and the labelled pairs' scores by heads that were fitted without them."""
    scales = [_scale(pool, hears_belief=hears_belief) for pool in pool_evidence]
    heads = tuple(
        EvidenceHead.fit(rows, matched, mean=mean, scale=scale, against=int(hears_belief))
        for rows, (mean, scale) in zip(labelled_evidence, scales, strict=True)
    )
    folds = stratified_folds(matched, np.random.default_rng(seed))
    unbiased = [
        out_of_fold(rows, matched, mean=mean, scale=scale, folds=folds, against=int(hears_belief))
        for rows, (mean, scale) in zip(labelled_evidence, scales, strict=True)
    ]
    return heads, np.mean(unbiased, axis=0).astype(np.float32)


def _joined(
    evidence: Sequence[npt.ArrayLike], agreement: Scores, rows: Bools
) -> list[npt.NDArray[np.float32]]:
    return [np.column_stack([np.asarray(of_net)[rows], agreement[rows]]) for of_net in evidence]


def _scale(pool: npt.ArrayLike, *, hears_belief: bool) -> tuple[Floats, Floats]:
    rows = np.asarray(pool, dtype=np.float64)
    mean, scale = rows.mean(axis=0), rows.std(axis=0) + 1e-9
    if hears_belief:
        # Where nearly all is believed its deviation is near 0, and would make much of a little.
        mean[0] = scale[0] = 0.5
    return mean, scale


def _mean(heads: Sequence[EvidenceHead], evidence: Sequence[npt.ArrayLike]) -> Scores:
    scores = [head(rows) for head, rows in zip(heads, evidence, strict=True)]
    mean: Scores = np.mean(scores, axis=0).astype(np.float32)
    return mean


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in data.items()
    }
