"""Evidence from alternatives: how a pair's cosine stands among those of other pairings.

Some captions are near to every image and some images to every caption. What counts is by how much
a pair is nearer than its image is to other captions, and its caption to other images: the log odds
of InfoNCE, against references of the pool [O].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nccleaner.model.equal import where_equal

# References of either kind; more of them change no figure.
REFERENCES = 512
_INVERSE_TEMPERATURE = 20.0
_SAME = 1e-5
_BLOCK_ROWS = 2048


@dataclass(frozen=True, slots=True)
class Contrast:
    """Pairs of the pool that serve as alternatives; whether they are matched does not matter.

    Attributes:
        images: [r, d] embeddings of length 1.
        texts: [r, d] embeddings of length 1.
        identities: [r], equal for equal images.
    """

    images: Float[Tensor, "r d"]
    texts: Float[Tensor, "r d"]
    identities: Int[Tensor, " r"]

    def of(
        self,
        images: Float[Tensor, "n d"],
        texts: Float[Tensor, "n d"],
        identities: Int[Tensor, " n"],
    ) -> Float[Tensor, "n 2"]:
        """Compares pairs with the alternatives, all rounded to bfloat16.

        Args:
            images: Embeddings of the pairs' images.
            texts: Embeddings of the pairs' captions.
            identities: Of the images; references of the same image are no alternatives, nor are
                references whose cosine is the pair's own: they are its image or its caption again.

        Returns:
            Log odds of the pair's caption against other captions of its image, and of its image
            against other images; higher = better matched, and 0 where there is no alternative.
        """
        of_images, of_texts = _rounded(self.images).T, _rounded(self.texts).T
        blocks = [images.new_zeros(0, 2)]
        for start in range(0, len(images), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            image, text = _rounded(images[rows]), _rounded(texts[rows])
            own = (image * text).sum(dim=1, keepdim=True)  # [b, 1]
            same = where_equal(identities[rows], self.identities)
            # Whether products may round changes their speed alone: the factors are rounded already.
            to_others = image @ of_texts, text @ of_images  # [b, r] each
            odds = [_log_odds(own, others, same) for others in to_others]
            blocks.append(torch.stack(odds, dim=1))
        return torch.cat(blocks)


def _rounded(embeddings: Tensor) -> Tensor:
    """Rounds as products may, so that a pair's own cosine is the product's of the same rows."""
    return embeddings.bfloat16().float()


def _log_odds(
    own: Float[Tensor, "b 1"], others: Float[Tensor, "b r"], same: tuple[Tensor, Tensor]
) -> Float[Tensor, " b"]:
    nearer = others.sub_(own)  # [b, r]
    nearer[same] = 0
    excluded = nearer.abs().lt(_SAME).nonzero(as_tuple=True)
    count = nearer.shape[1] - excluded[0].bincount(minlength=len(nearer))
    nearer[excluded] = -torch.inf
    # Cosines differ by 2 at the most: no exponential is too large, or too small, for a float32.
    ratios = nearer.mul_(_INVERSE_TEMPERATURE).exp_()
    odds: Tensor = count.clamp(min=1).log() - ratios.sum(dim=1).log()
    return odds.where(count > 0, 0.0)
