"""Evidence from siblings: does a caption agree with the other captions of its image.

A caption that was exchanged reads unlike those that were not, whatever the image shows (METHOD 2
and 6) [O]. Siblings count by how much they are believed: captions that are wrong together agree
with each other, and must not vouch for each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F

from nccleaner.purify.shares import Floats
from nccleaner.purify.standardise import Standardiser
from nccleaner.train.pairs import Pairs

Scores = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

# Belief that stands against what siblings say: one doubtful sibling says little.
_RESERVE = 0.5
_NOTHING = 1e-9
_BLOCK_PAIRS = 8192


@dataclass(frozen=True, slots=True)
class Siblings:
    """Pairs, and which of them show the same image with another caption.

    A caption that repeats with the same image is one sibling, and none of its own copies.

    Attributes:
        texts: [t, l] frozen features of captions.
        standardise: Of these features.
        images: [n], equal for pairs of one image.
        captions: [n], rows of `texts`, equal for equal captions.
    """

    texts: Tensor
    standardise: Standardiser
    images: Indices
    captions: Indices

    @staticmethod
    def among(pairs: Pairs, texts: Tensor, standardise: Standardiser) -> Siblings:
        """Looks for siblings among pairs whose captions are rows of `texts`."""
        _, images = np.unique(pairs.image_rows.cpu().numpy(), return_inverse=True)
        return Siblings(texts, standardise, images, pairs.text_rows.cpu().numpy())

    def exist(self) -> bool:
        """Tells whether any image has two captions."""
        different = np.unique(np.stack([self.images, self.captions]), axis=1)
        return len(different[0]) > len(np.unique(self.images))

    def agreement(self, belief: npt.ArrayLike) -> Scores:
        """Compares every caption with the other captions of its image.

        Args:
            belief: [n] in [0, 1], how much each pair is believed to be matched; 0 for a pair that
                is compared with others but vouches for none.

        Returns:
            [n], higher = better matched: the belief-weighted mean of the cosines to the siblings,
            less half of what believed siblings have in common, drawn towards 0 where little is
            believed; not a number where no sibling is believed at all.
        """
        weight = np.asarray(belief, dtype=np.float64)
        key = self.images * len(self.texts) + self.captions
        different, entry = np.unique(key, return_inverse=True)
        believed = np.zeros(len(different))
        np.maximum.at(believed, entry, weight)
        own = believed[entry]
        said = csr_array(
            (believed, (different // len(self.texts), different % len(self.texts))),
            (int(self.images.max(initial=0)) + 1, len(self.texts)),
        )
        total, toward = np.zeros(len(key)), np.zeros(len(key))
        for start in range(0, len(key), _BLOCK_PAIRS):
            rows = slice(start, start + _BLOCK_PAIRS)
            total[rows], toward[rows] = self._compare(said[self.images[rows]], rows, own[rows])
        common = float(weight @ toward) / max(float(weight @ total), _NOTHING)
        agreement = (toward - common / 2 * total) / (_RESERVE + total)
        return np.where(total > _NOTHING, agreement, np.nan).astype(np.float32)

    def _compare(self, said: csr_array, rows: slice, own: Floats) -> tuple[Floats, Floats]:
        """Sums the beliefs of siblings, and the cosines to them weighted by belief."""
        columns, local = np.unique(said.indices, return_inverse=True)
        sums = csr_array((said.data, local, said.indptr), (len(own), len(columns)))
        siblings: Floats = sums.dot(self._directions(columns.astype(np.int64)))  # [b, l]
        toward = (siblings * self._directions(self.captions[rows])).sum(axis=1) - own
        total = np.maximum(said.sum(axis=1) - own, 0.0)
        return total, np.where(total > _NOTHING, toward, 0.0)

    def _directions(self, captions: Indices) -> Floats:
        rows = torch.from_numpy(captions).to(self.texts.device)
        features = self.standardise(self.texts[rows].to(self.standardise.mean))
        directions: Floats = F.normalize(features).cpu().numpy().astype(np.float64)
        return directions
