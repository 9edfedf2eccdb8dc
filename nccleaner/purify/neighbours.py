"""Evidence from neighbours: does the caption fit the images of similar captions, and the reverse.

After LEMoN (Zhang et al., ICML 2025): the captions of the nearest images should be like the
caption, and the images of the nearest captions like the image. Ours [O]: neighbours are sought in a
seeded sample of the pool, count by how much they are believed, and never show the same image.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

# How fast a neighbour's say falls with its cosine distance.
_SHARPNESS = 8.0
_BLOCK_ROWS = 1024


@dataclass(frozen=True, slots=True)
class References:
    """Pairs of the pool among which neighbours are sought.

    Attributes:
        images: [r, f] standardised, length 1.
        texts: [r, l] standardised, length 1.
        identities: [r], equal for equal images.
        weights: [r] in [0, 1], how much each is believed.
    """

    images: Float[Tensor, "r f"]
    texts: Float[Tensor, "r l"]
    identities: Int[Tensor, " r"]
    weights: Float[Tensor, " r"]

    @staticmethod
    def build(
        images: Float[Tensor, "r f"],
        texts: Float[Tensor, "r l"],
        *,
        identities: Int[Tensor, " r"],
        weights: Float[Tensor, " r"],
    ) -> References:
        """Builds from standardised features."""
        return References(F.normalize(images), F.normalize(texts), identities, weights)

    def agreement(
        self,
        images: Float[Tensor, "n f"],
        texts: Float[Tensor, "n l"],
        *,
        identities: Int[Tensor, " n"],
        neighbours: int,
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Compares pairs with their neighbours.

        Args:
            images: Standardised features of the pairs' images.
            texts: Standardised features of the pairs' captions.
            identities: Of the images; references with the same are passed over.
            neighbours: How many count.

        Returns:
            Mean cosine of the caption with the captions of the nearest images, and of the image
            with the images of the nearest captions; both in [-1, 1], and 0 where no reference
            shows another image.
        """
        by_image, by_text = [], []
        for start in range(0, len(images), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            same = identities[rows, None] == self.identities  # [b, r]
            to_images = F.normalize(images[rows]) @ self.images.T  # [b, r]
            to_texts = F.normalize(texts[rows]) @ self.texts.T  # [b, r]
            by_image.append(self._mean(to_images.where(~same, -inf), to_texts, neighbours))
            by_text.append(self._mean(to_texts.where(~same, -inf), to_images, neighbours))
        return torch.cat(by_image), torch.cat(by_text)

    def _mean(
        self, near: Float[Tensor, "b r"], compared: Float[Tensor, "b r"], neighbours: int
    ) -> Float[Tensor, " b"]:
        nearest = near.topk(min(neighbours, near.shape[1]), dim=1)
        say = torch.exp(_SHARPNESS * nearest.values) * self.weights[nearest.indices]  # [b, k]
        mean: Tensor = (say * compared.gather(1, nearest.indices)).sum(dim=1)
        return mean / say.sum(dim=1).clamp(min=1e-12)
