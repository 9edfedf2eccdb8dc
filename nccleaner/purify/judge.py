"""The judge: from evidence to corrected similarity and clean probability, with its uncertainty.

There are two. One judges pairs that the networks were trained on and learned from planted probes;
the other judges the rest and learned from held-out trusted pairs (METHOD 4) [O].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nccleaner.purify.heads import EvidenceHead, out_of_fold, stratified_folds
from nccleaner.purify.mixture import Beta, BetaMixture, Floats, histogram, match_mean
from nccleaner.purify.noise import NoiseRate

Scores = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Labelled:
    """Scores of the labelled pairs that a judge learned from; they say what a cut-off costs.

    Attributes:
        matched: [n] bool.
        similarity: [n] in [-1, 1].
        corrected_similarity: [n] in [0, 1].
        clean_probability: [n] in [0, 1].
    """

    matched: Bools
    similarity: Scores
    corrected_similarity: Scores
    clean_probability: Scores

    def column(self, name: str) -> Scores:
        """Returns a score by the name it has in the output."""
        scores: Scores = getattr(self, name)
        return scores


@dataclass(frozen=True, slots=True)
class Judge:
    """Judges pairs of one standing.

    Attributes:
        heads: One for each network.
        mixture: Over the mean of the heads' corrected similarities.
        noise: Where the mixture's noise rate comes from; None: from the mixture's own fit.
        labelled: What it learned from, scored by heads that did not learn from it.
    """

    heads: tuple[EvidenceHead, ...]
    mixture: BetaMixture
    noise: NoiseRate | None
    labelled: Labelled

    @property
    def noise_rate(self) -> float:
        """Share of mismatched pairs among those that the judge was fitted to, in [0, 1]."""
        return self.mixture.noise_rate if self.noise is None else self.noise.value

    def corrected_similarity(self, evidence: Sequence[npt.ArrayLike]) -> Scores:
        """Returns the mean over networks, [n] in [0, 1], of evidence [n, e] of each."""
        return _mean(self.heads, evidence)

    def to_json(self) -> dict[str, Any]:
        """Returns plain data that `from_json` restores."""
        return {
            "heads": [_plain(asdict(head)) for head in self.heads],
            "mixture": asdict(self.mixture),
            "noise": None if self.noise is None else asdict(self.noise),
            "labelled": _plain(asdict(self.labelled)),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Judge:
        """Restores a judge."""
        labelled = data["labelled"]
        return Judge(
            tuple(
                EvidenceHead(
                    np.array(head["mean"]),
                    np.array(head["scale"]),
                    np.array(head["weights"]),
                    float(head["bias"]),
                )
                for head in data["heads"]
            ),
            _mixture(data["mixture"]),
            NoiseRate.from_json(data["noise"]),
            Labelled(
                np.array(labelled["matched"], dtype=bool),
                *(
                    np.array(labelled[name], dtype=np.float32)
                    for name in ("similarity", "corrected_similarity", "clean_probability")
                ),
            ),
        )


def fit_judge(
    labelled_evidence: Sequence[npt.ArrayLike],
    labelled_similarity: Scores,
    matched: Bools,
    *,
    pool_evidence: Sequence[npt.ArrayLike],
    fit: Callable[..., BetaMixture],
    seed: int,
    noise: NoiseRate | None = None,
) -> Judge:
    """Fits heads and mixture.

    Labelled pairs are scored by heads that were fitted without them (cross-validation): heads judge
    the pairs that they learned from too well, and every estimate that follows would be too rosy.

    Args:
        labelled_evidence: [n, e] for each network, of labelled pairs.
        labelled_similarity: [n].
        matched: [n] bool, at least two of each.
        pool_evidence: [m, e] for each network, of the pool without what is labelled; it sets the
            scale of the evidence, and the mixture is fitted to its scores.
        fit: `fit_mixture` with its settings bound.
        seed: Of the folds.
        noise: The noise rate, where it is known better than the mixture can tell.
    """
    scales = [_scale(pool) for pool in pool_evidence]
    heads = tuple(
        EvidenceHead.fit(rows, matched, mean=mean, scale=scale)
        for rows, (mean, scale) in zip(labelled_evidence, scales, strict=True)
    )
    folds = stratified_folds(matched, np.random.default_rng(seed))
    unbiased = [
        out_of_fold(rows, matched, mean=mean, scale=scale, folds=folds)
        for rows, (mean, scale) in zip(labelled_evidence, scales, strict=True)
    ]
    scores: Scores = np.mean(unbiased, axis=0).astype(np.float32)
    good, bad = scores[matched], scores[~matched]
    pool = histogram(_mean(heads, pool_evidence))
    mixture = fit(
        pool,
        matched=histogram(good),
        mismatched=histogram(bad),
    )
    if noise is not None:
        mixture = match_mean(mixture, pool, noise.value)
    return Judge(
        heads,
        mixture,
        noise,
        Labelled(matched, labelled_similarity, scores, mixture.clean_probability(scores)),
    )


def _scale(pool: npt.ArrayLike) -> tuple[Floats, Floats]:
    rows = np.asarray(pool, dtype=np.float64)
    return rows.mean(axis=0), rows.std(axis=0) + 1e-9


def _mean(heads: Sequence[EvidenceHead], evidence: Sequence[npt.ArrayLike]) -> Scores:
    scores = [head(rows) for head, rows in zip(heads, evidence, strict=True)]
    mean: Scores = np.mean(scores, axis=0).astype(np.float32)
    return mean


def _mixture(data: Mapping[str, Any]) -> BetaMixture:
    return BetaMixture(
        Beta(**data["matched"]), Beta(**data["mismatched"]), data["noise_rate"], data["fallback"]
    )


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in data.items()
    }
