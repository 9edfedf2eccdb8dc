"""Brings frozen features to one scale, feature by feature."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_SMALL_SCALE = 1e-2
_NOTHING = 1e-12


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


def directions(rows: Float[Tensor, "n f"]) -> Float[Tensor, "n f"]:
    """Brings rows to length 1, in place; rows of zeros stay."""
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows.div_(lengths.clamp(min=_NOTHING))
