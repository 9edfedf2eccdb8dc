"""A ridge map between frozen features, never fitted on the pair it judges (METHOD 5).

A ridge regression from image features to caption features and one back, by folds of images: a pair
is judged by the maps of the other folds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

FOLDS = 5
_NOTHING = 1e-8


@dataclass(frozen=True, slots=True)
class RidgeMap:
    """Maps between standardised features, one for each fold of images that it leaves out.

    Attributes:
        to_text: [folds, f, l].
        to_image: [folds, l, f].
    """

    to_text: Float[Tensor, "k f l"]
    to_image: Float[Tensor, "k l f"]

    @staticmethod
    def fit(
        images: Float[Tensor, "n f"],
        texts: Float[Tensor, "n l"],
        *,
        folds: Int[Tensor, " n"],
        weights: Float[Tensor, " n"],
        penalty: float,
    ) -> RidgeMap:
        """Fits to the pairs of the pool.

        Args:
            images: Standardised features of the pairs' images.
            texts: Standardised features of the pairs' captions.
            folds: In [0, FOLDS), equal for equal images.
            weights: In [0, 1], how much each pair is believed.
            penalty: Added to the features' covariance, in units of their variance.
        """
        gram_images, gram_texts, cross = [], [], []
        for fold in range(FOLDS):
            rows = folds == fold
            weighted = images[rows] * weights[rows, None]
            gram_images.append(weighted.T @ images[rows])
            cross.append(weighted.T @ texts[rows])
            gram_texts.append((texts[rows] * weights[rows, None]).T @ texts[rows])
        total = torch.stack([weights[folds == fold].sum() for fold in range(FOLDS)])
        to_text, to_image = [], []
        for fold in range(FOLDS):
            others = [other for other in range(FOLDS) if other != fold]
            strength = penalty * total[others].sum().clamp(min=1.0)
            both = torch.stack([cross[other] for other in others]).sum(dim=0)
            to_text.append(_solve(gram_images, others, strength, both))
            to_image.append(_solve(gram_texts, others, strength, both.T))
        return RidgeMap(torch.stack(to_text), torch.stack(to_image))

    def cosines(
        self,
        images: Float[Tensor, "n f"],
        texts: Float[Tensor, "n l"],
        *,
        folds: Int[Tensor, " n"],
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Returns the cosines of caption and mapped image, and of image and mapped caption."""
        in_text, in_image = images.new_zeros(2, len(images), dtype=torch.float32)
        for fold in range(FOLDS):
            rows = torch.nonzero(folds == fold)[:, 0]
            image, text = images[rows], texts[rows]
            in_text[rows] = _cosines(image @ self.to_text[fold], text)
            in_image[rows] = _cosines(text @ self.to_image[fold], image)
        return in_text, in_image


def _cosines(mapped: Float[Tensor, "n f"], rows: Float[Tensor, "n f"]) -> Float[Tensor, " n"]:
    mapped, rows = mapped.float(), rows.float()
    lengths = torch.linalg.vector_norm(mapped, dim=1) * torch.linalg.vector_norm(rows, dim=1)
    cosines: Tensor = mapped.mul_(rows).sum(dim=1) / lengths.clamp(min=_NOTHING)
    return cosines


def _solve(
    grams: list[Tensor], others: list[int], strength: Tensor, cross: Tensor
) -> Float[Tensor, "f l"]:
    gram = torch.stack([grams[other] for other in others]).sum(dim=0)
    regular = gram + strength * torch.eye(len(gram), device=gram.device)
    # The penalty makes it positive definite; float64 because counts of millions are summed.
    factor = torch.linalg.cholesky(regular.double())
    return torch.cholesky_solve(cross.double(), factor).float()
