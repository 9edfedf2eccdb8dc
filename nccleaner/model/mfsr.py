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


class MainNet(nn.Module):
    """The retrieval network (`main_net`): two towers, two separations, similarity vectors.

    Args:
        image_tower: Module from what is stored of an image to [b, d].
        text_tower: Module from what is stored of a caption to [b, d].
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

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Parts, Parts]:
        """Separates a batch of images and a batch of captions, which may differ in length."""
        return self.separate_images(images), self.separate_texts(texts)

    def separate_images(self, images: Tensor) -> Parts:
        """Returns the parts of images, [b, ...] as `image_tower` takes them."""
        parts: Parts = self.image_separation(self.image_tower(images))
        return parts

    def separate_texts(self, texts: Tensor) -> Parts:
        """Returns the parts of captions, [b, ...] as `text_tower` takes them."""
        parts: Parts = self.text_separation(self.text_tower(texts))
        return parts

    @property
    def inverse_temperature(self) -> Float[Tensor, ""]:
        """InfoNCE's scale of cosines."""
        return self.log_inverse_temperature.exp()

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Keeps InfoNCE's scale under CLIP's bound of 100, beyond which training is unstable."""
        self.log_inverse_temperature.clamp_(max=math.log(100.0))
