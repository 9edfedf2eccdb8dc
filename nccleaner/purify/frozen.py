"""The evidence that needs no training: the canonical map and the neighbours, on frozen features.

None of it has seen the pair it judges, so it cannot have learned the mismatched ones by heart.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nccleaner.encoders.precision import fast_dtype
from nccleaner.purify.canonical import FOLDS, CanonicalMap
from nccleaner.purify.neighbours import References
from nccleaner.purify.standardise import Standardised, Standardiser, directions

KINDS = 3
_BLOCK_ROWS = 2048


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


@dataclass(frozen=True, slots=True)
class FrozenPool:
    """The pool, as one round of fitting after another reads it.

    Attributes:
        of_images: Standardises image features.
        of_texts: Standardises caption features.
        images: Of its pairs.
        texts: Of its pairs.
        identities: [n], a number from the content of each image.
    """

    of_images: Standardiser
    of_texts: Standardiser
    images: Standardised
    texts: Standardised
    identities: Int[Tensor, " n"]

    @staticmethod
    def of(pairs: Frozen) -> FrozenPool:
        """Standardises the pool by itself."""
        of_images, of_texts = Standardiser.fit(pairs.images), Standardiser.fit(pairs.texts)
        return FrozenPool(
            of_images,
            of_texts,
            Standardised(of_images(pairs.images)),
            Standardised(of_texts(pairs.texts)),
            pairs.identities,
        )


@dataclass(frozen=True)
class FrozenEvidence:
    """What frozen features say of a pair: its canonical cosine, and two agreements with neighbours.

    Attributes:
        of_images: Standardises image features.
        of_texts: Standardises caption features.
        canonical: A map for each fold of images, of the pairs of the others.
        references: Where neighbours are sought.
        neighbours: About how many count.
    """

    of_images: Standardiser
    of_texts: Standardiser
    canonical: CanonicalMap
    references: References
    neighbours: int

    @staticmethod
    def fit(
        pool: FrozenPool,
        *,
        weights: Float[Tensor, " n"],
        references: int,
        neighbours: int,
        shrinkage: float | None,
        generator: torch.Generator,
    ) -> FrozenEvidence:
        """Fits to the pool.

        Args:
            pool: Its pairs. The first call finds their principal components, the slowest part with
                wide features; later ones use them again.
            weights: In [0, 1], how much each pair is believed.
            references: How many pairs neighbours are sought among; drawn at random.
            neighbours: About how many count.
            shrinkage: Of the canonical map; None: by the number of features and pairs.
            generator: Source of randomness.
        """
        chosen = torch.randperm(len(pool.identities), generator=generator)[:references]
        return FrozenEvidence(
            pool.of_images,
            pool.of_texts,
            CanonicalMap.fit(
                pool.images,
                pool.texts,
                weights=weights,
                folds=pool.identities % FOLDS,
                shrinkage=shrinkage,
            ),
            References.build(
                pool.images,
                pool.texts,
                chosen=chosen,
                identities=pool.identities,
                weights=weights,
            ),
            neighbours,
        )

    def of(self, pairs: Frozen) -> Float[Tensor, "n 3"]:
        """Returns the evidence of pairs; higher = better matched.

        Of wider image features, only the first columns are read: those of the frozen encoder.
        Directions are rounded to bfloat16 where the hardware computes with it.
        """
        width = self.of_images.mean.shape[-1]
        canonical, references = self._fast
        blocks = [pairs.images.new_zeros(0, KINDS)]
        for start in range(0, len(pairs.images), _BLOCK_ROWS):
            block = pairs.take(slice(start, start + _BLOCK_ROWS))
            images = directions(self.of_images(block.images[:, :width])).to(references.images.dtype)
            texts = directions(self.of_texts(block.texts)).to(references.images.dtype)
            cosines = canonical.cosines(images, texts, folds=block.identities % FOLDS)
            agreement = references.agreement(
                images, texts, identities=block.identities, neighbours=self.neighbours
            )
            blocks.append(torch.stack([cosines, *agreement], dim=1))
        return torch.cat(blocks)

    @cached_property
    def _fast(self) -> tuple[CanonicalMap, References]:
        dtype = fast_dtype(str(self.references.images.device))
        return self.canonical.to(dtype), self.references.to(dtype)

    def tensors(self) -> dict[str, Tensor]:
        """Returns what `from_tensors` needs, for a file."""
        return {
            **self.of_images.tensors("image"),
            **self.of_texts.tensors("text"),
            "canonical_of_images": self.canonical.of_images,
            "canonical_of_texts": self.canonical.of_texts,
            "components_of_images": self.references.of_images,
            "components_of_texts": self.references.of_texts,
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
            Standardiser.from_tensors("image", tensors),
            Standardiser.from_tensors("text", tensors),
            CanonicalMap(tensors["canonical_of_images"], tensors["canonical_of_texts"]),
            References(
                tensors["components_of_images"],
                tensors["components_of_texts"],
                tensors["reference_images"],
                tensors["reference_texts"],
                tensors["reference_identities"],
                tensors["reference_weights"],
            ),
            int(tensors["neighbours"]),
        )
