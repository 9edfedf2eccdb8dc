"""The main network: mFSR's feature separation on top of two encoders.

L. Zhang, X. Wu, "Multi-task framework based on feature separation and reconstruction for
cross-modal retrieval", Pattern Recognition 2022.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from nccleaner.model.rows import Rows
from nccleaner.model.similarity import SimilarityVector


class Parts(NamedTuple):
    """What feature separation makes of a batch of one modality; every row has length 1."""

    modality: Float[Tensor, "b d"]
    semantic: Float[Tensor, "b d"]
    specific: Float[Tensor, "b d"]


class Separation(nn.Module):
    """[modality; semantic; specific] = MLP(x), each part L2-normalised [P].

    The semantic part also has a direct linear path [O]: retrieval must not lose to a plain dual
    encoder what the hidden layer cannot pass.

    Shapes: [b, d] → three times [b, d].
    """

    def __init__(self, *, joint_width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.GELU(),
            nn.Linear(joint_width, joint_width),
            nn.GELU(),
            nn.Linear(joint_width, 3 * joint_width),
        )

    def forward(self, joint: Float[Tensor, "b d"]) -> Parts:
        """Separates vectors of the joint space."""
        modality, semantic, specific = self.mlp(joint).chunk(3, dim=-1)  # each [b, d]
        return Parts(
            modality=F.normalize(modality, dim=-1),
            semantic=F.normalize(joint + semantic, dim=-1),
            specific=F.normalize(specific, dim=-1),
        )

    def semantic(self, joint: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Returns the semantic part alone, for a third of the last layer's cost.

        Its length is 1 in float32 at least, whatever the layers compute with.
        """
        last, width = self.mlp[-1], joint.shape[-1]
        assert isinstance(last, nn.Linear)
        hidden = self.mlp[:-1](joint)
        mine = slice(width, 2 * width)
        semantic = joint + F.linear(hidden, last.weight[mine], last.bias[mine])
        return F.normalize(semantic.to(torch.promote_types(semantic.dtype, torch.float32)), dim=-1)


class MainNet(nn.Module):
    """The retrieval network (`main_net`): two towers, two separations, similarity vectors.

    Args:
        image_tower: Module from what is stored of images, and the `Rows` of the batch that they
            are, to [b, d].
        text_tower: Likewise, of captions.
        joint_width: Width d of the joint space.
        similarity_width: Width s of a similarity vector.
        temperature: Start of InfoNCE's learned temperature.
    """

    def __init__(
        self,
        *,
        image_tower: nn.Module,
        text_tower: nn.Module,
        joint_width: int,
        similarity_width: int,
        temperature: float,
    ) -> None:
        super().__init__()
        self.image_tower = image_tower
        self.text_tower = text_tower
        self.image_separation = Separation(joint_width=joint_width)
        self.text_separation = Separation(joint_width=joint_width)
        self.similarity_vector = SimilarityVector(
            joint_width=joint_width, similarity_width=similarity_width
        )
        self.log_inverse_temperature = nn.Parameter(torch.tensor(1.0 / temperature).log())

    def forward(
        self, images: Tensor, texts: Tensor, rows: Rows | None = None
    ) -> tuple[Parts, Parts]:
        """Separates a batch of images and a batch of captions, which may differ in length.

        Args:
            images: [b, ...] as `image_tower` takes them.
            texts: [c, ...] as `text_tower` takes them.
            rows: Which rows of the batch these are, where other processes have others; None: all.
        """
        return self.separate_images(images, rows), self.separate_texts(texts, rows)

    def separate_images(self, images: Tensor, rows: Rows | None = None) -> Parts:
        """Returns the parts of images, [b, ...] as `image_tower` takes them."""
        parts: Parts = self.image_separation(self.image_tower(images, rows))
        return parts

    def separate_texts(self, texts: Tensor, rows: Rows | None = None) -> Parts:
        """Returns the parts of captions, [b, ...] as `text_tower` takes them."""
        parts: Parts = self.text_separation(self.text_tower(texts, rows))
        return parts

    def semantic_images(self, images: Tensor) -> Float[Tensor, "b d"]:
        """Returns the semantic parts of images, as `separate_images` would."""
        return self.image_separation.semantic(self.image_tower(images))

    def semantic_texts(self, texts: Tensor) -> Float[Tensor, "b d"]:
        """Returns the semantic parts of captions, as `separate_texts` would."""
        return self.text_separation.semantic(self.text_tower(texts))

    @property
    def inverse_temperature(self) -> Float[Tensor, ""]:
        """InfoNCE's scale of cosines."""
        return self.log_inverse_temperature.exp()

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Keeps InfoNCE's scale under CLIP's bound of 100, beyond which training is unstable."""
        self.log_inverse_temperature.clamp_(max=math.log(100.0))
