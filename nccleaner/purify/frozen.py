"""The evidence that needs no training: the canonical map, and neighbours in its space.

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
from nccleaner.purify.standardise import Standardiser, directions

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


@dataclass(frozen=True)
class FrozenEvidence:
    """What frozen features say of a pair: its canonical cosine, and two agreements with neighbours.

    Attributes:
        of_images: Standardises image features.
        of_texts: Standardises caption features.
        canonical: A map for each fold of images, of the pairs of the others.
        references: Where neighbours are sought: the same pairs in the space of each map.
        neighbours: About how many count.
    """

    of_images: Standardiser
    of_texts: Standardiser
    canonical: CanonicalMap
    references: tuple[References, ...]
    neighbours: int

    @staticmethod
    def fit(
        pool: Frozen,
        *,
        weights: Float[Tensor, " n"],
        references: int,
        neighbours: int,
        shrinkage: float | None,
        generator: torch.Generator,
    ) -> FrozenEvidence:
        """Fits to the pool.

        Args:
            pool: Its pairs.
            weights: In [0, 1], how much each pair is believed.
            references: How many pairs neighbours are sought among; drawn at random.
            neighbours: About how many count.
            shrinkage: Of the canonical map; None: by the number of features and pairs.
            generator: Source of randomness.
        """
        of_images, of_texts = Standardiser.fit(pool.images), Standardiser.fit(pool.texts)
        images, texts = of_images(pool.images), of_texts(pool.texts)
        canonical = CanonicalMap.fit(
            images,
            texts,
            weights=weights,
            folds=pool.identities % FOLDS,
            shrinkage=shrinkage,
        )
        chosen = torch.randperm(len(images), generator=generator)[:references]
        referred = images[chosen], texts[chosen]
        return FrozenEvidence(
            of_images,
            of_texts,
            canonical,
            tuple(
                References(
                    canonical.embed_images(referred[0], fold=fold),
                    canonical.embed_texts(referred[1], fold=fold),
                    pool.identities[chosen],
                    weights[chosen],
                )
                for fold in range(FOLDS)
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
        dtype = canonical.of_images.dtype
        evidence = torch.zeros(len(pairs.images), KINDS, device=pairs.images.device)
        for start in range(0, len(pairs.images), _BLOCK_ROWS):
            block = pairs.take(slice(start, start + _BLOCK_ROWS))
            images = directions(self.of_images(block.images[:, :width])).to(dtype)
            texts = directions(self.of_texts(block.texts)).to(dtype)
            for fold, neighbourhood in enumerate(references):
                rows = torch.nonzero(block.identities % FOLDS == fold)[:, 0]
                if not len(rows):
                    continue
                image = canonical.embed_images(images[rows], fold=fold)
                text = canonical.embed_texts(texts[rows], fold=fold)
                agreement = neighbourhood.agreement(
                    image.to(dtype),
                    text.to(dtype),
                    identities=block.identities[rows],
                    neighbours=self.neighbours,
                )
                cosines = image.mul_(text).sum(dim=1)
                evidence[start + rows] = torch.stack([cosines, *agreement], dim=1)
        return evidence

    @cached_property
    def _fast(self) -> tuple[CanonicalMap, tuple[References, ...]]:
        dtype = fast_dtype(str(self.of_images.mean.device))
        return self.canonical.to(dtype), tuple(each.to(dtype) for each in self.references)

    def tensors(self) -> dict[str, Tensor]:
        """Returns what `from_tensors` needs, for a file."""
        return {
            "image_mean": self.of_images.mean,
            "image_scale": self.of_images.scale,
            "text_mean": self.of_texts.mean,
            "text_scale": self.of_texts.scale,
            "canonical_of_images": self.canonical.of_images,
            "canonical_of_texts": self.canonical.of_texts,
            "reference_images": torch.stack([each.images for each in self.references]),
            "reference_texts": torch.stack([each.texts for each in self.references]),
            "reference_identities": self.references[0].identities,
            "reference_weights": self.references[0].weights,
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
            CanonicalMap(tensors["canonical_of_images"], tensors["canonical_of_texts"]),
            tuple(
                References(
                    images, texts, tensors["reference_identities"], tensors["reference_weights"]
                )
                for images, texts in zip(
                    tensors["reference_images"], tensors["reference_texts"], strict=True
                )
            ),
            int(tensors["neighbours"]),
        )
