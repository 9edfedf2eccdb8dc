"""Similarity vectors: what the meta network sees of a pair.

h = L2norm(W_g (v − l)²), the global alignment of SGRAF as MSCN uses it (section 3.1 [P]).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class SimilarityVector(nn.Module):
    """Maps semantic parts of images and captions to similarity vectors.

    Args:
        joint_width: Width d of the semantic parts.
        similarity_width: Width s of a similarity vector.
    """

    def __init__(self, *, joint_width: int, similarity_width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            nn.init.xavier_uniform_(torch.empty(similarity_width, joint_width))
        )

    def paired(
        self, images: Float[Tensor, "b d"], texts: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b s"]:
        """Returns h of image i with caption i."""
        return F.normalize((images - texts).square() @ self.weight.T, dim=-1)

    def pairwise(
        self, images: Float[Tensor, "b d"], texts: Float[Tensor, "c d"]
    ) -> Float[Tensor, "b c s"]:
        """Returns h of every image with every caption.

        W(v − l)² = W v² + W l² − 2 Σ_d W[s, d] v[d] l[d]: the last term is one matrix product of
        [b·s, d] with [d, c], so no [b, c, d] is ever built.
        """
        of_images = images.square() @ self.weight.T  # [b, s]
        of_texts = texts.square() @ self.weight.T  # [c, s]
        weighted = (images[:, None, :] * self.weight).flatten(0, 1)  # [b·s, d]
        cross = (weighted @ texts.T).view(len(images), -1, len(texts))  # [b, s, c]
        vectors = of_images[:, None, :] + of_texts[None, :, :] - 2 * cross.transpose(1, 2)
        return F.normalize(vectors, dim=-1)
