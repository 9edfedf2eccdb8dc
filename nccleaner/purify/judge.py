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

from nccleaner.purify.heads import EvidenceHead
from nccleaner.purify.mixture import Beta, BetaMixture, Floats, histogram

Scores = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

_FOLDS = 10


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
        labelled: What it learned from, scored by heads that did not learn from it.
    """

    heads: tuple[EvidenceHead, ...]
    mixture: BetaMixture
    labelled: Labelled

    def corrected_similarity(self, evidence: Sequence[npt.ArrayLike]) -> Scores:
        """Returns the mean over networks, [n] in [0, 1], of evidence [n, e] of each."""
        return _mean(self.heads, evidence)

    def to_json(self) -> dict[str, Any]:
        """Returns plain data that `from_json` restores."""
        return {
            "heads": [_plain(asdict(head)) for head in self.heads],
            "mixture": asdict(self.mixture),
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
    """
    rng = np.random.default_rng(seed)
    scales = [_scale(pool) for pool in pool_evidence]
    heads = _fit_heads(labelled_evidence, matched, scales)
    scores = np.empty(len(matched), dtype=np.float32)
    folds = _stratified_folds(matched, rng)
    for fold in range(_FOLDS):
        inside = folds == fold
        if inside.any():
            others = [np.asarray(rows)[~inside] for rows in labelled_evidence]
            without = _fit_heads(others, matched[~inside], scales)
            scores[inside] = _mean(
                without, [np.asarray(rows)[inside] for rows in labelled_evidence]
            )
    good, bad = scores[matched], scores[~matched]
    mixture = fit(
        histogram(_mean(heads, pool_evidence)),
        matched=histogram(good),
        mismatched=histogram(bad),
    )
    return Judge(
        heads,
        mixture,
        Labelled(matched, labelled_similarity, scores, mixture.clean_probability(scores)),
    )


def _scale(pool: npt.ArrayLike) -> tuple[Floats, Floats]:
    rows = np.asarray(pool, dtype=np.float64)
    return rows.mean(axis=0), rows.std(axis=0) + 1e-9


def _fit_heads(
    evidence: Sequence[npt.ArrayLike], matched: Bools, scales: Sequence[tuple[Floats, Floats]]
) -> tuple[EvidenceHead, ...]:
    return tuple(
        EvidenceHead.fit(rows, matched, mean=mean, scale=scale)
        for rows, (mean, scale) in zip(evidence, scales, strict=True)
    )


def _stratified_folds(matched: Bools, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Deals each label out evenly, so that every fold leaves pairs of both to learn from."""
    folds = np.empty(len(matched), dtype=np.int64)
    for label in (True, False):
        rows = np.flatnonzero(matched == label)
        folds[rng.permutation(rows)] = np.arange(len(rows)) % _FOLDS
    return folds


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
