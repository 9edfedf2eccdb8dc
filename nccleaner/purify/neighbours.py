"""Evidence from neighbours: does the caption fit the images of similar captions, and the reverse.

After LEMoN (Zhang et al., ICML 2025): the captions of the nearest images should be like the
caption, and the images of the nearest captions like the image. Ours [O]: neighbours are sought in a
seeded sample of the pool, by the principal components of the features, count by how much they are
believed, and never show the same image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nccleaner.model.equal import where_equal
from nccleaner.purify.standardise import Standardised, directions

_BLOCK_ROWS = 2048
# Rows whose cosines with all references stay in a core's cache while they are passed over.
_CACHED_ROWS = 128
_MOST = 0.5
# Of either kind of features; more of them find no better neighbours.
_COMPONENTS = 128
_NOTHING = 1e-12


@dataclass(frozen=True, slots=True)
class References:
    """Pairs of the pool among which neighbours are sought, by their principal components.

    Attributes:
        of_images: [f, p], from standardised features to components.
        of_texts: [l, q].
        images: [r, p] components, length 1.
        texts: [r, q] components, length 1.
        identities: [r], equal for equal images.
        weights: [r] in [0, 1], how much each is believed.
    """

    of_images: Float[Tensor, "f p"]
    of_texts: Float[Tensor, "l q"]
    images: Float[Tensor, "r p"]
    texts: Float[Tensor, "r q"]
    identities: Int[Tensor, " r"]
    weights: Float[Tensor, " r"]

    @staticmethod
    def build(
        images: Standardised,
        texts: Standardised,
        *,
        chosen: Int[Tensor, " r"],
        identities: Int[Tensor, " n"],
        weights: Float[Tensor, " n"],
    ) -> References:
        """Builds from the pool.

        Args:
            images: Features of its pairs' images.
            texts: Features of its pairs' captions.
            chosen: Which of the pairs become references.
            identities: Of the images.
            weights: In [0, 1], how much each pair is believed.
        """
        of_images, of_texts = _first(images.components), _first(texts.components)
        return References(
            of_images,
            of_texts,
            directions(images.rows[chosen] @ of_images),
            directions(texts.rows[chosen] @ of_texts),
            identities[chosen],
            weights[chosen],
        )

    def to(self, dtype: torch.dtype) -> References:
        """Returns the same in another type, in which products then are."""
        return replace(
            self,
            of_images=self.of_images.to(dtype),
            of_texts=self.of_texts.to(dtype),
            images=self.images.to(dtype),
            texts=self.texts.to(dtype),
        )

    def agreement(
        self,
        images: Float[Tensor, "n f"],
        texts: Float[Tensor, "n l"],
        *,
        identities: Int[Tensor, " n"],
        neighbours: int,
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Compares pairs with their neighbours: the references that stand out by their cosine.

        A neighbour counts by its cosine's height above a threshold, so many standard deviations
        above the mean as leave `neighbours` references of a normal distribution. That is passes
        over a matrix, where a search for the k nearest sorts.

        Args:
            images: Standardised features of the pairs' images, in the type of the references; their
                length does not matter.
            texts: Likewise, of the pairs' captions.
            identities: Of the images; references with the same are passed over.
            neighbours: About how many count; at most half of the references.

        Returns:
            Mean cosine of the caption with the captions of the nearest images, and of the image
            with the images of the nearest captions; both in [-1, 1], and 0 where no reference
            shows another image or none stands out.
        """
        height = NormalDist().inv_cdf(1 - min(neighbours / len(self.identities), _MOST))
        step = _CACHED_ROWS if images.device.type == "cpu" else _BLOCK_ROWS
        by_image, by_text = [], []
        for start in range(0, len(images), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            image = directions((images[rows] @ self.of_images).float())  # [b, p]
            text = directions((texts[rows] @ self.of_texts).float())  # [b, q]
            to_all_images = image.to(self.images.dtype) @ self.images.T  # [b, r]
            to_all_texts = text.to(self.texts.dtype) @ self.texts.T  # [b, r]
            for own, *products in zip(
                *(
                    torch.split(of_rows, step)
                    for of_rows in (identities[rows], to_all_images, to_all_texts)
                ),
                strict=True,
            ):
                same = where_equal(own, self.identities)
                to_images, to_texts = (product.float() for product in products)
                to_images[same] = to_texts[same] = 0
                by_image.append(self._mean(to_images, to_texts, same, height))
                by_text.append(self._mean(to_texts, to_images, same, height))
        return torch.cat(by_image), torch.cat(by_text)

    def _mean(
        self,
        near: Float[Tensor, "b r"],
        compared: Float[Tensor, "b r"],
        same: tuple[Tensor, ...],
        height: float,
    ) -> Float[Tensor, " b"]:
        passed_over = same[0].bincount(minlength=len(near))
        others = (near.shape[1] - passed_over).clamp(min=1)[:, None]  # [b, 1]
        mean = near.sum(dim=1, keepdim=True) / others
        squares = torch.linalg.vector_norm(near, dim=1, keepdim=True).square() / others
        deviation = (squares - mean.square()).clamp(min=0).sqrt()
        say = (near - (mean + height * deviation)).relu_()  # [b, r]
        say[same] = 0
        # Sums, not products with a vector, whose factors `float32_products` may round.
        total = say.mul_(self.weights).sum(dim=1).clamp(min=_NOTHING)
        agreement: Tensor = say.mul_(compared).sum(dim=1) / total
        return agreement


def _first(components: Float[Tensor, "f f"]) -> Float[Tensor, "f p"]:
    return components[:, :_COMPONENTS].float().contiguous()
