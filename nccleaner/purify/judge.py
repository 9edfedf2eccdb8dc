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

from nccleaner.purify.heads import EvidenceHead
from nccleaner.purify.near_misses import NearMisses
from nccleaner.purify.noise import NoiseRate
from nccleaner.purify.posterior import Posterior, Scores

Bools = npt.NDArray[np.bool_]


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
        grows: Whether there would be more mismatched pairs if people had labelled more; not where
            they are made of pairs that nobody labelled.
    """

    matched: Bools
    similarity: Scores
    corrected_similarity: Scores
    clean_probability: Scores
    repeats: int = 1
    grows: bool = True

    def weight(self, times: float) -> float:
        """Returns what a mismatched pair counts if there were `times` as many labels."""
        return (times if self.grows else 1.0) / self.repeats

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
            labelled pairs alone.
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
        scores = mean_score(self.heads, evidence)
        if self.sibling_heads and agreement is not None:
            have = ~np.isnan(agreement)
            scores[have] = mean_score(self.sibling_heads, joined(evidence, agreement, have))
        return scores

    def clean_probability(self, corrected: npt.ArrayLike) -> Scores:
        """Returns the posterior that pairs of these corrected similarities are matched, [n]."""
        return self.posterior(corrected)

    def heeding(self, near_misses: NearMisses) -> Judge:
        """Returns this judge with the posterior that the pool gives."""
        heeding = replace(self, noise_rate=near_misses.rate, near_misses=near_misses)
        clean = heeding.clean_probability(self.labelled.corrected_similarity)
        return replace(heeding, labelled=replace(self.labelled, clean_probability=clean))

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
                bool(labelled["grows"]),
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


def joined(
    evidence: Sequence[npt.ArrayLike], agreement: Scores, rows: Bools
) -> list[npt.NDArray[np.float32]]:
    """Returns the evidence of some pairs for each network, with the agreement of siblings last."""
    return [np.column_stack([np.asarray(of_net)[rows], agreement[rows]]) for of_net in evidence]


def mean_score(heads: Sequence[EvidenceHead], evidence: Sequence[npt.ArrayLike]) -> Scores:
    """Returns the mean of each network's head on its evidence, [n] in (0, 1)."""
    scores = [head(rows) for head, rows in zip(heads, evidence, strict=True)]
    mean: Scores = np.mean(scores, axis=0).astype(np.float32)
    return mean


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in data.items()
    }
