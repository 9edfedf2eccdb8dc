"""Brings frozen features to one scale, feature by feature, and finds in what they vary most."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

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

    def tensors(self, kind: str) -> dict[str, Tensor]:
        """Returns what `from_tensors` needs, for a file, by names that begin with `kind`."""
        return {f"{kind}_mean": self.mean, f"{kind}_scale": self.scale}

    @staticmethod
    def from_tensors(kind: str, tensors: dict[str, Tensor]) -> Standardiser:
        """Restores what `tensors` gave for `kind`."""
        return Standardiser(tensors[f"{kind}_mean"], tensors[f"{kind}_scale"])


@dataclass(frozen=True)
class Standardised:
    """The pool's features of one kind at one scale, and their principal components.

    Components are found when they are first asked for, and once for all who ask.

    Attributes:
        rows: [n, f], with mean 0.
    """

    rows: Float[Tensor, "n f"]

    @property
    def components(self) -> Float[Tensor, "f f"]:
        """Directions of length 1 in float64, one a column; the one of most variance first."""
        return self._spectrum[1]

    @property
    def variances(self) -> Float[Tensor, " f"]:
        """Of the rows in these directions; 0 or more."""
        return self._spectrum[0]

    @cached_property
    def _spectrum(self) -> tuple[Tensor, Tensor]:
        covariance = (self.rows.T @ self.rows).double() / max(len(self.rows), 1)
        variances, components = torch.linalg.eigh(covariance)
        return variances.flip(0).clamp(min=0), components.flip(1)


def directions(rows: Float[Tensor, "n f"]) -> Float[Tensor, "n f"]:
    """Brings rows to length 1, in place; rows of zeros stay."""
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows.div_(lengths.clamp(min=_NOTHING))
