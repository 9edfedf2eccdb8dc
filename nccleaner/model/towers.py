"""From what the cache holds to the joint space: the last layers before feature separation."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nccleaner.model.rows import Rows


class FeatureTower(nn.Module):
    """A frozen encoder's feature → linear → the joint space (FC1 of mFSR, section 3.1 [P]).

    Args:
        feature_width: Width f of the frozen feature.
        joint_width: Width d of the joint space.
        dropout: Share of the features set to zero while training [O].

    Attributes:
        first: The first column that it reads; not 0 where several encoders' features of an image
            stand side by side.

    Shapes: [b, f], or wider → [b, d].
    """

    def __init__(self, *, feature_width: int, joint_width: int, dropout: float) -> None:
        super().__init__()
        self.first = 0
        # Frozen encoders differ in scale by orders of magnitude; the norm makes one learning rate
        # fit them all.
        self.norm = nn.LayerNorm(feature_width, elementwise_affine=False)
        self.dropout = dropout
        self.linear = nn.Linear(feature_width, joint_width)

    def forward(
        self, features: Float[Tensor, "b columns"], rows: Rows | None = None
    ) -> Float[Tensor, "b d"]:
        """Maps features, kept in float16, to the joint space.

        Args:
            features: What is stored of the images or captions of a batch.
            rows: Which rows of the batch these are; None: all.
        """
        mine = features[:, self.first : self.first + self.linear.in_features]  # [b, f]
        normed = self.norm(mine.to(self.linear.weight.dtype))
        if self.training:
            normed = (rows or Rows(len(normed))).dropout(normed, share=self.dropout)
        out: Tensor = self.linear(normed)
        return out


def in_own_precision(device: torch.device) -> AbstractContextManager[object]:
    """Lets recurrent layers compute in the type of their weights, whatever autocast is set to.

    For them cuDNN's autocast knows float16 alone, asked for bfloat16 or not: there small gradients
    vanish unless the loss is scaled.
    """
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


class GRUTower(nn.Module):
    """Token embeddings → GRU → its state after the last token (mFSR section 3.1 [P]).

    Args:
        vocabulary: Number of token ids; id 0 is padding.
        embedding_width: Width of a token's embedding (300 [P]).
        layers: GRU layers (4 [P]).
        joint_width: Hidden width, and so the width d of what comes out.
        dropout: Between the layers [O].

    Shapes: token ids [b, t], padded on the right with 0 → [b, d].
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        embedding_width: int,
        layers: int,
        joint_width: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding_width, padding_idx=0)
        self.gru = nn.GRU(
            embedding_width,
            joint_width,
            num_layers=layers,
            batch_first=True,
            dropout=dropout if layers > 1 else 0.0,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        # Of a copy each weight lies by itself; cuDNN wants all of them in one block.
        self.gru.flatten_parameters()

    def forward(
        self,
        tokens: Int[Tensor, "b t"],
        rows: Rows | None = None,  # noqa: ARG002
    ) -> Float[Tensor, "b d"]:
        """Maps token ids to the joint space.

        Args:
            tokens: Of the captions of a batch.
            rows: Which rows of the batch these are. Dropout between layers is drawn for these
                alone, inside the GRU.
        """
        lengths = (tokens != 0).sum(dim=1).clamp(min=1)
        with in_own_precision(tokens.device):
            states, _ = self.gru(self.embedding(tokens))  # [b, t, d]
        # The GRU only looks back, so padding on the right cannot reach the last valid state.
        every = torch.arange(len(tokens), device=tokens.device)
        last: Tensor = states[every, lengths - 1]  # [b, d]
        return last
