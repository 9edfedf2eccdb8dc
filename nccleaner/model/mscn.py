"""The meta network: MSCN, which turns what is known of a pair into a corrected similarity.

H. Han, K. Miao, Q. Zheng, M. Luo, "Noisy Correspondence Learning with Meta Similarity Correction",
CVPR 2023, section 3.2.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class MetaNet(nn.Module):
    """s = σ(W2 ReLU(W1 h) + a·c + b): the corrected similarity of a pair, in (0, 1).

    The paper has s = σ(W2 ReLU(W1 h)) [P]. The L2 norm in h removes the very distance that a dual
    encoder learns, so the correction is a residual on the cosine c [O]; a and b belong to θ.

    Args:
        similarity_width: Width s of a similarity vector.
        hidden_width: Width of the hidden layer (64 [P]).
    """

    def __init__(self, *, similarity_width: int, hidden_width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(similarity_width, hidden_width)
        self.out = nn.Linear(hidden_width, 1, bias=False)
        # The residual starts at nothing and a·c + b where a cosine of 0.25 is a toss-up, so the
        # first corrected similarities are those of a plain dual encoder.
        nn.init.zeros_(self.out.weight)
        self.cosine_weight = nn.Parameter(torch.tensor(10.0))
        self.bias = nn.Parameter(torch.tensor(-2.5))

    def forward(
        self, vectors: Float[Tensor, "*n s"], cosines: Float[Tensor, "*n"]
    ) -> Float[Tensor, "*n"]:
        """Returns the logit of the corrected similarity; higher = better matched."""
        residual: Tensor = self.out(torch.relu(self.hidden(vectors))).squeeze(-1)  # [*n]
        return residual + self.cosine_weight * cosines + self.bias
