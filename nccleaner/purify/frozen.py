"""The evidence that needs no training: the ridge map and the neighbours, on frozen features.

None of it has seen the pair it judges, so it cannot have learned the mismatched ones by heart.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nccleaner.encoders.precision import fast_dtype
from nccleaner.purify.neighbours import References
from nccleaner.purify.ridge import FOLDS, RidgeMap, Standardiser

_BLOCK_ROWS = 2048
_NOTHING = 1e-12


@dataclass(frozen=True, slots=True)
class Frozen:
    """Pairs by their frozen features.

    Attributes:
        images: [n, f].
        texts: [n, l].
        identities: [n], a number from the content of each image.
    """

    images: Float[Tensor, "n f"]
    texts: Float[Tensor, "n l"]
    identities: Int[Tensor, " n"]

    def take(self, index: Tensor | slice) -> Frozen:
        """Returns the pairs at `index`."""
        return Frozen(self.images[index], self.texts[index], self.identities[index])


@dataclass(frozen=True)
class FrozenEvidence:
    """What frozen features say of a pair: two cosines of the ridge map, two of the neighbours.

    Attributes:
        of_images: Standardises image features.
        of_texts: Standardises caption features.
        ridge: The map.
        references: Where neighbours are sought.
        neighbours: About how many count.
    """

    of_images: Standardiser
    of_texts: Standardiser
    ridge: RidgeMap
    references: References
    neighbours: int

    @staticmethod
    def fit(
        pool: Frozen,
        *,
        weights: Float[Tensor, " n"],
        references: int,
        neighbours: int,
        penalty: float,
        generator: torch.Generator,
    ) -> FrozenEvidence:
        """Fits to the pool.

        Args:
            pool: Its pairs.
            weights: In [0, 1], how much each pair is believed.
            references: Pairs among which neighbours are sought; a random sample.
            neighbours: About how many count.
            penalty: Of the ridge map, in variances of the features.
            generator: Source of randomness.
        """
        of_images, of_texts = Standardiser.fit(pool.images), Standardiser.fit(pool.texts)
        images, texts = of_images(pool.images), of_texts(pool.texts)
        chosen = torch.randperm(len(images), generator=generator)[:references]
        return FrozenEvidence(
            of_images,
            of_texts,
            RidgeMap.fit(
                images, texts, folds=pool.identities % FOLDS, weights=weights, penalty=penalty
            ),
            References.build(
                images[chosen],
                texts[chosen],
                identities=pool.identities[chosen],
                weights=weights[chosen],
            ),
            neighbours,
        )

    def of(self, pairs: Frozen) -> Float[Tensor, "n 4"]:
        """Returns the evidence of pairs; higher = better matched.

        Of wider image features, only the first columns are read: those of the frozen encoder.
        Directions are rounded to bfloat16 where the hardware computes with it.
        """
        width = self.of_images.mean.shape[-1]
        ridge, references = self._fast
        blocks = [pairs.images.new_zeros(0, 4)]
        for start in range(0, len(pairs.images), _BLOCK_ROWS):
            block = pairs.take(slice(start, start + _BLOCK_ROWS))
            images = _directions(self.of_images(block.images[:, :width])).to(ridge.to_text.dtype)
            texts = _directions(self.of_texts(block.texts)).to(ridge.to_image.dtype)
            cosines = ridge.cosines(images, texts, folds=block.identities % FOLDS)
            agreement = references.agreement(
                images, texts, identities=block.identities, neighbours=self.neighbours
            )
            blocks.append(torch.stack([*cosines, *agreement], dim=1))
        return torch.cat(blocks)

    @cached_property
    def _fast(self) -> tuple[RidgeMap, References]:
        dtype = fast_dtype(str(self.references.images.device))
        return self.ridge.to(dtype), self.references.to(dtype)

    def tensors(self) -> dict[str, Tensor]:
        """Returns what `from_tensors` needs, for a file."""
        return {
            "image_mean": self.of_images.mean,
            "image_scale": self.of_images.scale,
            "text_mean": self.of_texts.mean,
            "text_scale": self.of_texts.scale,
            "ridge_to_text": self.ridge.to_text,
            "ridge_to_image": self.ridge.to_image,
            "reference_images": self.references.images,
            "reference_texts": self.references.texts,
            "reference_identities": self.references.identities,
            "reference_weights": self.references.weights,
            "neighbours": torch.tensor(self.neighbours),
        }

    def to(self, device: torch.device) -> FrozenEvidence:
        """Returns the same on a device."""
        moved = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return FrozenEvidence.from_tensors(moved)

    @staticmethod
    def from_tensors(tensors: dict[str, Tensor]) -> FrozenEvidence:
        """Restores what `tensors` gave."""
        return FrozenEvidence(
            Standardiser(tensors["image_mean"], tensors["image_scale"]),
            Standardiser(tensors["text_mean"], tensors["text_scale"]),
            RidgeMap(tensors["ridge_to_text"], tensors["ridge_to_image"]),
            References(
                tensors["reference_images"],
                tensors["reference_texts"],
                tensors["reference_identities"],
                tensors["reference_weights"],
            ),
            int(tensors["neighbours"]),
        )


def _directions(rows: Float[Tensor, "n f"]) -> Float[Tensor, "n f"]:
    """Brings rows to length 1, in place."""
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows.div_(lengths.clamp(min=_NOTHING))
