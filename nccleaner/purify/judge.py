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
from nccleaner.purify.mixture import Beta, BetaMixture, histogram

Scores = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

_DRAWS = 100


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
        draws: Mixtures fitted to resampled labelled pairs and scores: the uncertainty of `mixture`.
        labelled: What it learned from.
    """

    heads: tuple[EvidenceHead, ...]
    mixture: BetaMixture
    draws: tuple[BetaMixture, ...]
    labelled: Labelled

    def corrected_similarity(self, evidence: Sequence[npt.ArrayLike]) -> Scores:
        """Returns the mean over networks, [n] in [0, 1], of evidence [n, e] of each."""
        return _mean(self.heads, evidence)

    def to_json(self) -> dict[str, Any]:
        """Returns plain data that `from_json` restores."""
        return {
            "heads": [_plain(asdict(head)) for head in self.heads],
            "mixture": asdict(self.mixture),
            "draws": [asdict(draw) for draw in self.draws],
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
            tuple(_mixture(draw) for draw in data["draws"]),
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
    """Fits heads, mixture and draws.

    Args:
        labelled_evidence: [n, e] for each network, of labelled pairs.
        labelled_similarity: [n].
        matched: [n] bool, at least one of each.
        pool_evidence: [m, e] for each network, of the pool without what is labelled; it sets the
            scale of the evidence, and the mixture is fitted to its scores.
        fit: `fit_mixture` with its settings bound.
        seed: Of the draws.
    """
    heads = tuple(
        EvidenceHead.fit(
            evidence,
            matched,
            mean=np.asarray(pool, dtype=np.float64).mean(axis=0),
            scale=np.asarray(pool, dtype=np.float64).std(axis=0) + 1e-9,
        )
        for evidence, pool in zip(labelled_evidence, pool_evidence, strict=True)
    )
    pool_histogram = histogram(_mean(heads, pool_evidence))
    scores = _mean(heads, labelled_evidence)
    good, bad = scores[matched], scores[~matched]
    mixture = fit(pool_histogram, matched=histogram(good), mismatched=histogram(bad))
    rng = np.random.default_rng(seed)
    draws = tuple(
        fit(
            rng.poisson(pool_histogram).astype(np.float64),
            matched=histogram(rng.choice(good, len(good))),
            mismatched=histogram(rng.choice(bad, len(bad))),
        )
        for _ in range(_DRAWS)
    )
    return Judge(
        heads,
        mixture,
        draws,
        Labelled(matched, labelled_similarity, scores, mixture.clean_probability(scores)),
    )


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
