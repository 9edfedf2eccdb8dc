"""What is known of pairs, and what they score: what enters a judge, and what leaves it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nccleaner.purify.shares import Floats
from nccleaner.purify.siblings import Siblings

# Weights that are expected of each kind, in proportion: with labels of the truth, heads on Flickr8k
# (20 to 80 % at random) made most of the contrast, which holds what the networks say by themselves.
_OF_NETWORKS = (0.1, 0.1)
_CONTRAST = (1.0, 1.0)
_FROZEN = (0.4, 0.1, 0.1)

Scores = npt.NDArray[np.float32]


class Evidence(NamedTuple):
    """What is known of pairs.

    Attributes:
        similarity: [n] in [-1, 1], mean cosine of the networks' semantic parts and of the canonical
            view.
        of_networks: For each network [n, 2]: the logit of its corrected similarity, and the cosine
            of the other network (of itself where it is the only one).
        contrast: [n, 2], how the pair stands among alternatives.
        frozen: [n, 3], what frozen features say; no columns where captions come as tokens.
        siblings: The pairs as siblings of each other; None where that is no evidence.
    """

    similarity: Scores
    of_networks: tuple[Scores, ...]
    contrast: Scores
    frozen: Scores
    siblings: Siblings | None

    @property
    def is_finite(self) -> bool:
        """Whether every number of it is one."""
        columns = (self.similarity, *self.of_networks, self.contrast, self.frozen)
        return all(np.isfinite(column).all() for column in columns)

    def of_rows(
        self,
        rows: slice | npt.NDArray[np.bool_] | npt.NDArray[np.int64],
        belief: Scores | None = None,
        *,
        contrast_alone: bool = False,
    ) -> list[Scores]:
        """Returns for each network what is known of some pairs by themselves, [rows, e].

        Args:
            rows: The pairs.
            belief: [n], how much training believed each pair, for a judge that hears it: its first
                kind of evidence. None: without.
            contrast_alone: Leaves out all but that and the contrast, which is all networks' alike.
        """
        told = [] if belief is None else [belief[rows, None]]
        contrast = self.contrast[rows]
        return [
            np.concatenate(
                [*told, contrast]
                if contrast_alone
                else [*told, own[rows], contrast, self.frozen[rows]],
                axis=1,
            )
            for own in self.of_networks
        ]

    def proportions(self, *, contrast_alone: bool = False) -> Floats:
        """Returns what weights are expected of the kinds in `of_rows`, belief apart, [e]."""
        if contrast_alone:
            return np.array(_CONTRAST)
        return np.array([*_OF_NETWORKS, *_CONTRAST, *_FROZEN[: self.frozen.shape[1]]])


class Scored(NamedTuple):
    """Scores of pairs, as in the output contract; higher = better matched.

    Attributes:
        similarity: [n] in [-1, 1].
        corrected_similarity: [n] in [0, 1].
        clean_probability: [n] in [0, 1].
    """

    similarity: Scores
    corrected_similarity: Scores
    clean_probability: Scores
