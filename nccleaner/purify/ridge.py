"""Evidence from a closed-form map between frozen features, never fitted on the pair it judges.

A ridge regression from image features to caption features and one back, by folds of images: a pair
is judged by the maps of the other folds. Weak where the networks are strong and the other way
round: it keeps the geometry of the frozen encoders (METHOD 2 and 6) [O].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

FOLDS = 5
_SMALL_SCALE = 1e-2
_NOTHING = 1e-8


@dataclass(frozen=True, slots=True)
class Standardiser:
    """Shifts features to mean 0 and scales them to about variance 1, feature by feature."""

    mean: Float[Tensor, " f"]
    scale: Float[Tensor, " f"]

    @staticmethod
    def fit(features: Float[Tensor, "n f"]) -> Standardiser:
        """Fits to rows; a feature that hardly varies is not blown up."""
        deviation = features.std(dim=0, unbiased=False)
        floor = _SMALL_SCALE * features.std(unbiased=False).clamp(min=1e-6)
        return Standardiser(features.mean(dim=0), deviation + floor)

    def __call__(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n f"]:
        """Standardises rows."""
        return (features - self.mean).div_(self.scale)


@dataclass(frozen=True, slots=True)
class RidgeMap:
    """Maps between standardised features, one for each fold of images that it leaves out.

    Attributes:
        to_text: [folds, f, l].
        to_image: [folds, l, f].
    """

    to_text: Float[Tensor, "k f l"]
    to_image: Float[Tensor, "k l f"]

    def to(self, dtype: torch.dtype) -> RidgeMap:
        """Returns the same maps in another type, in which products then are."""
        return RidgeMap(self.to_text.to(dtype), self.to_image.to(dtype))

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
        """Returns the cosines of caption and mapped image, and of image and mapped caption.

        Features are in the type of the maps; their length does not matter.
        """
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
