"""LEMoN: does a pair agree with the pairs near it (Zhang et al., ICML 2025, section 3)."""

from __future__ import annotations

from math import inf

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

# The setting that the paper recommends where nothing can be tuned.
NEIGHBOURS, WEIGHT, BY_DISTANCE, BY_FIT = 30, 5.0, 0.1, 5.0
_BLOCK_ROWS = 1024


def lemon_scores(
    images: Float[Tensor, "n f"],
    texts: Float[Tensor, "n l"],
    *,
    identities: Int[Tensor, " n"],
    own_distances: Float[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """Scores every pair of a pool by itself and by its neighbours; higher = cleaner.

    −(d_mm(x, y) + β s_n + γ s_m) with, over the k nearest images x_j and their captions y_j,
    s_n = 1/k Σ_j d(y, y_j) exp(−τ1 d(x, x_j)) exp(−τ2 d_mm(x_j, y_j)), and s_m the same with
    images and captions in each other's place; d is the cosine distance. k = 30, β = γ = 5,
    τ1 = 0.1, τ2 = 5, as the paper has them without tuning.

    The paper leaves only the pair itself out of its neighbours; here [O] all pairs of its image
    are, whose other captions would otherwise be the nearest of all.

    Args:
        images: Of the pairs, of any length above 0.
        texts: Of the pairs, likewise; their width may be another.
        identities: Equal where images are.
        own_distances: d_mm of each pair, from 0 (a perfect match) to 2.
    """
    images, texts = F.normalize(images, dim=1), F.normalize(texts, dim=1)
    fit = torch.exp(-BY_FIT * own_distances)  # [n]
    scores = []
    for start in range(0, len(images), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        same = identities[rows, None] == identities  # [b, n]
        by_image = (1 - images[rows] @ images.T).masked_fill(same, inf)
        by_text = (1 - texts[rows] @ texts.T).masked_fill(same, inf)
        disagreement = _mean(by_image, by_text, fit) + _mean(by_text, by_image, fit)
        scores.append(-(own_distances[rows] + WEIGHT * disagreement))
    return torch.cat(scores)


def _mean(
    near: Float[Tensor, "b n"], compared: Float[Tensor, "b n"], fit: Float[Tensor, " n"]
) -> Float[Tensor, " b"]:
    """s_n or s_m: distances of the other modality, averaged over the nearest in this one."""
    nearest = near.topk(NEIGHBOURS, dim=1, largest=False)
    distances = compared.gather(1, nearest.indices)
    mean: Tensor = (
        distances * torch.exp(-BY_DISTANCE * nearest.values) * fit[nearest.indices]
    ).mean(dim=1)
    return mean
