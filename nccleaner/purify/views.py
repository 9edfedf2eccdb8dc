"""What the networks and the canonical view make of images or captions, and how two compare."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Views(NamedTuple):
    """What images, or captions, look like to all that embeds them; rows of each have length 1.

    Attributes:
        parts: Semantic parts, of each network.
        canonical: In the canonical view; no columns where there is none.
    """

    parts: Float[Tensor, "n nets d"]
    canonical: Float[Tensor, "n c"]

    def take(self, rows: Tensor) -> Views:
        """Returns some rows."""
        return Views(self.parts[rows], self.canonical[rows])

    def cosines(self, others: Views) -> Float[Tensor, "n views"]:
        """Returns the cosines of row i with row i of others: the networks', then the canonical."""
        cosines: Tensor = (self.parts * others.parts).sum(dim=2)
        if not self.canonical.shape[1]:
            return cosines
        canonical = (self.canonical * others.canonical).sum(dim=1, keepdim=True)
        return torch.cat([cosines, canonical], dim=1)

    def joined(self) -> Float[Tensor, "n dim"]:
        """Puts all side by side; rows have length 1."""
        count = self.parts.shape[1] + bool(self.canonical.shape[1])
        joined: Tensor = torch.cat([self.parts.flatten(1), self.canonical], dim=1) / count**0.5
        return joined
