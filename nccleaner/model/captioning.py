"""Captions from their parts: the decoder of mFSR's reconstruction."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from nccleaner.model.mfsr import Parts
from nccleaner.model.towers import in_own_precision

# Pads captions on the right [P]. The first one after a caption is its end, and it stands before the
# first token [O].
_PADDING = 0


class CaptionDecoder(nn.Module):
    """FC2([modality; semantic; specific]) starts a GRU that says the caption, token by token [P].

    Args:
        vocabulary: Number of token ids; id 0 is padding.
        embedding_width: Width of a token's embedding.
        joint_width: Width d of each part, and of the GRU.
    """

    def __init__(self, *, vocabulary: int, embedding_width: int, joint_width: int) -> None:
        super().__init__()
        self.start = nn.Linear(3 * joint_width, joint_width)
        self.embedding = nn.Embedding(vocabulary, embedding_width)
        self.gru = nn.GRU(embedding_width, joint_width, batch_first=True)
        self.out = nn.Linear(joint_width, vocabulary)

    def forward(
        self, parts: Parts, tokens: Int[Tensor, "b t"]
    ) -> tuple[Float[Tensor, "n v"], Int[Tensor, " n"]]:
        """Predicts each token of the captions from the true ones before it (teacher forcing).

        Args:
            parts: Of the captions.
            tokens: The captions, padded on the right with 0. On the CPU, nobody waits for a GPU to
                say where they end.

        Returns:
            Logits of the n tokens of all captions, ends included and padding left out, and the
            tokens themselves.
        """
        previous = F.pad(tokens, (1, 0), value=_PADDING)  # [b, t + 1]
        following = F.pad(tokens, (0, 1), value=_PADDING)  # [b, t + 1]
        said = _is_said(tokens)
        device = parts.semantic.device
        embedded = self.embedding(previous.to(device, non_blocking=True))
        start = self._start(parts).to(embedded.dtype)
        with in_own_precision(device):
            states, _ = self.gru(embedded, start)  # [b, t + 1, d]
        # The layer over the vocabulary is the dear one: none of it for padding.
        places = said.flatten().nonzero().squeeze(1).to(device, non_blocking=True)  # [n]
        logits: Tensor = self.out(states.flatten(0, 1)[places])
        return logits, following[said].long().to(device, non_blocking=True)

    @torch.no_grad()
    def write(self, parts: Parts, *, max_tokens: int) -> Int[Tensor, "b {max_tokens}"]:
        """Writes captions, always taking the likeliest token, and pads them with 0."""
        state = self._start(parts)
        token = torch.full_like(parts.semantic[:, :1], _PADDING, dtype=torch.long)  # [b, 1]
        ended = torch.zeros_like(token, dtype=torch.bool)
        written = []
        for _ in range(max_tokens):
            states, state = self.gru(self.embedding(token), state)
            token = self.out(states).argmax(dim=-1)  # [b, 1]
            ended = ended | (token == _PADDING)
            token = token.masked_fill(ended, _PADDING)
            written.append(token)
        return torch.cat(written, dim=1)

    def _start(self, parts: Parts) -> Float[Tensor, "1 b d"]:
        started: Tensor = torch.tanh(self.start(torch.cat(parts, dim=1)))
        return started[None]


def _is_said(tokens: Int[Tensor, "b t"]) -> Bool[Tensor, "b u"]:
    """Marks the tokens of captions and the first padding after each, u = t + 1."""
    lengths = (tokens != _PADDING).sum(dim=1, keepdim=True)  # [b, 1]
    return torch.arange(tokens.shape[1] + 1, device=tokens.device) <= lengths


def caption_loss(logits: Float[Tensor, "n v"], tokens: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """L_cap: cross-entropy of tokens in nats, as a mean over the tokens of the batch."""
    return F.cross_entropy(logits, tokens)
