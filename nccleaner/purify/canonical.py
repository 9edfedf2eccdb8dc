"""Regularised canonical correlation analysis between frozen features: a closed form [O].

Directions of image features and of caption features that vary together over the believed pairs,
each scaled by a power of its correlation; the cosine in the space that they span compares an image
with a caption. Strong where few pairs are clean, and right about other pairs than the networks are.

H. Hotelling, "Relations between two sets of variates", 1936; H. D. Vinod, "Canonical ridge", 1976;
the scaling and the cosine: Y. Gong, Q. Ke, M. Isard, S. Lazebnik, "A multi-view embedding space for
modeling internet images, tags, and their semantics", IJCV 2014.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nccleaner.encoders.precision import fast_dtype
from nccleaner.purify.standardise import Standardised, Standardiser, directions

FOLDS = 5
# Directions that are kept; there are no more than either kind of feature has.
_WIDTH = 256
_POWER = 0.25
# What the covariances of n pairs are blurred by grows with (features / n) ** .5.
_SHRINKAGE = 8.0
# Of either kind of features, as many principal components at most are looked at: the time of a
# singular value decomposition grows with the third power.
_COMPONENTS = 1_536
# Of the strongest; what is below it is rounding.
_NO_CORRELATION = 1e-6
_BLOCK_ROWS = 8_192
_NOTHING = 1e-12


@dataclass(frozen=True, slots=True)
class CanonicalMap:
    """Maps standardised features into the space of their canonical directions.

    Attributes:
        of_images: [k, f, c], one for each fold that it leaves out, or a single one.
        of_texts: [k, l, c].
    """

    of_images: Float[Tensor, "k f c"]
    of_texts: Float[Tensor, "k l c"]

    @staticmethod
    def fit(
        images: Standardised,
        texts: Standardised,
        *,
        weights: Float[Tensor, " n"],
        folds: Int[Tensor, " n"] | None,
        shrinkage: float | None,
    ) -> CanonicalMap:
        """Fits to the pairs of the pool.

        Args:
            images: Features of the pairs' images.
            texts: Features of the pairs' captions.
            weights: In [0, 1], how much each pair is believed.
            folds: In [0, FOLDS), equal for equal images: one map for each fold, of the pairs of
                the others. None: a single map, of all pairs.
            shrinkage: Added to the covariances of either side, in variances of a mean direction;
                None: by the number of features and of believed pairs.
        """
        if shrinkage is None:
            features = images.rows.shape[1] + texts.rows.shape[1]
            shrinkage = _SHRINKAGE * (features / float(weights.sum().clamp(min=1.0))) ** 0.5
        of_images, of_texts = _whitening(images, shrinkage), _whitening(texts, shrinkage)
        if folds is None:
            crosses = _cross(images.rows, texts.rows, weights)[None]
        else:
            own = torch.stack(
                [
                    _cross(images.rows, texts.rows, weights * (folds == fold))
                    for fold in range(FOLDS)
                ]
            )
            crosses = own.sum(dim=0) - own  # [k, f, l]
        left, right = [], []
        for cross in crosses:
            together, correlations, other = torch.linalg.svd(
                of_images.T @ cross @ of_texts, full_matrices=False
            )
            scales = correlations / correlations.max().clamp(min=_NOTHING)
            scales = scales.where(scales > _NO_CORRELATION, 0.0) ** _POWER
            to_image = of_images @ (together * scales)[:, :_WIDTH]
            to_text = of_texts @ (other.T * scales)[:, :_WIDTH]
            # The sign of a direction is arbitrary; fixed here, it does not hang on rounding.
            signs = to_image.sum(dim=0).sign()  # [c]
            left.append(to_image * signs)
            right.append(to_text * signs)
        return CanonicalMap(torch.stack(left).float(), torch.stack(right).float())

    def to(self, dtype: torch.dtype) -> CanonicalMap:
        """Returns the same maps in another type, in which products then are."""
        return CanonicalMap(self.of_images.to(dtype), self.of_texts.to(dtype))

    def cosines(
        self,
        images: Float[Tensor, "n f"],
        texts: Float[Tensor, "n l"],
        *,
        folds: Int[Tensor, " n"],
    ) -> Float[Tensor, " n"]:
        """Returns the cosine of each pair, by the map of its fold.

        Features are in the type of the maps; their length does not matter.
        """
        cosines = images.new_zeros(len(images), dtype=torch.float32)
        for fold, (of_images, of_texts) in enumerate(
            zip(self.of_images, self.of_texts, strict=True)
        ):
            rows = torch.nonzero(folds == fold)[:, 0]
            image = directions((images[rows] @ of_images).float())
            text = directions((texts[rows] @ of_texts).float())
            cosines[rows] = image.mul_(text).sum(dim=1)
        return cosines


@dataclass(frozen=True, slots=True)
class CanonicalView:
    """Embeds images and captions as one map of all believed pairs does.

    Attributes:
        of_images: Standardises image features.
        of_texts: Standardises caption features.
        map: A single one.
    """

    of_images: Standardiser
    of_texts: Standardiser
    map: CanonicalMap

    @staticmethod
    def fit(
        images: Float[Tensor, "n f"],
        texts: Float[Tensor, "n l"],
        *,
        weights: Float[Tensor, " n"],
        shrinkage: float | None,
    ) -> CanonicalView:
        """Fits to the frozen features of pairs; the rest as in `CanonicalMap.fit`."""
        images, texts = images.float(), texts.float()
        of_images, of_texts = Standardiser.fit(images), Standardiser.fit(texts)
        fitted = CanonicalMap.fit(
            Standardised(of_images(images)),
            Standardised(of_texts(texts)),
            weights=weights,
            folds=None,
            shrinkage=shrinkage,
        )
        return CanonicalView(of_images, of_texts, fitted)

    @property
    def width(self) -> int:
        """Numbers c in an embedding."""
        return self.map.of_images.shape[-1]

    def embed_images(self, images: Float[Tensor, "n columns"]) -> Float[Tensor, "n c"]:
        """Embeds frozen features of images; rows have length 1.

        Of wider rows only the first columns are read: those of the frozen encoder.
        """
        frozen = images[:, : self.of_images.mean.shape[-1]]
        return _embed(self.of_images(frozen.float()), self.map.of_images[0])

    def embed_texts(self, texts: Float[Tensor, "n l"]) -> Float[Tensor, "n c"]:
        """Embeds frozen features of captions; rows have length 1."""
        return _embed(self.of_texts(texts.float()), self.map.of_texts[0])

    def tensors(self) -> dict[str, Tensor]:
        """Returns what `from_tensors` needs, for a file."""
        return {
            **self.of_images.tensors("image"),
            **self.of_texts.tensors("text"),
            "of_images": self.map.of_images,
            "of_texts": self.map.of_texts,
        }

    @staticmethod
    def from_tensors(tensors: dict[str, Tensor]) -> CanonicalView:
        """Restores what `tensors` gave."""
        return CanonicalView(
            Standardiser.from_tensors("image", tensors),
            Standardiser.from_tensors("text", tensors),
            CanonicalMap(tensors["of_images"], tensors["of_texts"]),
        )

    def to(self, device: torch.device) -> CanonicalView:
        """Returns the same on a device."""
        moved = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return CanonicalView.from_tensors(moved)


def _embed(
    standardised: Float[Tensor, "n f"], weights: Float[Tensor, "f c"]
) -> Float[Tensor, "n c"]:
    """Maps rows, in bfloat16 where the hardware computes with it; length 1 in float32."""
    dtype = fast_dtype(str(weights.device))
    return directions((directions(standardised).to(dtype) @ weights.to(dtype)).float())


def _cross(
    images: Float[Tensor, "n f"], texts: Float[Tensor, "n l"], weights: Float[Tensor, " n"]
) -> Float[Tensor, "f l"]:
    """Returns the sum of weighted outer products, without a copy of all rows."""
    total = torch.zeros(images.shape[1], texts.shape[1], dtype=torch.float64, device=images.device)
    for rows in torch.split(torch.nonzero(weights)[:, 0], _BLOCK_ROWS):
        total += (images[rows] * weights[rows, None]).T @ texts[rows]
    return total


def _whitening(features: Standardised, shrinkage: float) -> Float[Tensor, "f w"]:
    """Returns what makes the covariance of features nearly the identity, in float64.

    Of very wide features the directions of least variance are left out.
    """
    variances = features.variances
    shrunk = (variances + shrinkage * variances.mean()).clamp(min=_NOTHING)
    whitening: Tensor = (features.components * shrunk.rsqrt())[:, :_COMPONENTS]
    return whitening
