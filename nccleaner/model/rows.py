"""The rows of a batch that one process computes, and how they meet those of the other processes.

A batch is divided into consecutive rows, one portion a process, and the loss is the sum of what the
processes compute. Everything here can be differentiated, also twice: the gradient of what one
process received from another goes back to where it came from. One process alone has all rows, and
nothing is copied then.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rows:
    """One portion of a batch.

    Attributes:
        count: Rows of the whole batch, n.
        rank: Which of the processes has this portion, counted from 0.
        size: How many processes there are. With more than one, all must call the same methods in
            the same order.
    """

    count: int
    rank: int = 0
    size: int = 1

    @property
    def own(self) -> slice:
        """The rows of this portion, b of them; no portion has more than one row above another."""
        lengths = self._lengths()
        first = sum(lengths[: self.rank])
        return slice(first, first + lengths[self.rank])

    def gather(self, own: Tensor) -> Tensor:
        """Joins the portions of a tensor, [b, ...] → [n, ...]."""
        if self.size == 1:
            return own
        width = math.prod(own.shape[1:])
        copies = own.expand(self.size, *own.shape).flatten()
        received = [length * width for length in self._lengths()]
        whole = exchange(copies, sent=[own.numel()] * self.size, received=received)
        return whole.view(self.count, *own.shape[1:])

    def transpose(self, own: Tensor) -> Tensor:
        """Returns own rows of the transpose of a matrix of which each process has its own rows.

        Shapes: [b, n] → [b, n].
        """
        if self.size == 1:
            return own.T
        lengths = self._lengths()
        mine = lengths[self.rank]
        received = exchange(
            own.T.flatten(),
            sent=[length * mine for length in lengths],
            received=[mine * length for length in lengths],
        )
        blocks = torch.split(received, [mine * length for length in lengths])
        return torch.cat(
            [block.view(mine, length) for block, length in zip(blocks, lengths, strict=True)], dim=1
        )

    def part_of_mean(self, own: Tensor) -> Tensor:
        """Returns what own rows contribute to the mean over the batch, [b, ...] → [...]."""
        return own.mean(dim=0) if self.size == 1 else own.sum(dim=0) / self.count

    def mean(self, own: Tensor) -> Tensor:
        """Returns the mean over the batch, [b, ...] → [...], the same for all processes."""
        part = self.part_of_mean(own)
        return part if self.size == 1 else add_up(part)

    def dropout(self, own: Tensor, *, share: float) -> Tensor:
        """Sets a random share of own rows to zero: what one process alone would, [b, f] → [b, f].

        Every process draws for all rows, from generators that must be in the same state.
        """
        if self.size == 1:
            return torch.nn.functional.dropout(own, share)
        whole = own.new_ones(self.count, *own.shape[1:])
        return own * torch.nn.functional.dropout(whole, share)[self.own]

    def _lengths(self) -> list[int]:
        every, more = divmod(self.count, self.size)
        return [every + (rank < more) for rank in range(self.size)]


def exchange(values: Tensor, *, sent: list[int], received: list[int]) -> Tensor:
    """Sends a piece of a vector to each process and joins what each sent to this one.

    Args:
        values: [sum of `sent`], the pieces in the order of the processes.
        sent: Length of each.
        received: Length of each that comes, in the same order.
    """
    found: Tensor = _Exchange.apply(values, sent, received)
    return found


def add_up(values: Tensor) -> Tensor:
    """Returns the sum of a tensor over all processes."""
    total: Tensor = _Sum.apply(values)
    return total


class _Exchange(torch.autograd.Function):
    """All-to-all; its derivative is the exchange that sends everything back."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, sent: list[int], received: list[int]) -> Tensor:
        ctx.sent, ctx.received = sent, received
        found = values.new_empty(sum(received))
        dist.all_to_all_single(found, values.contiguous(), received, sent)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return exchange(gradient, sent=ctx.received, received=ctx.sent), None, None


class _Sum(torch.autograd.Function):
    """Sum over processes; its derivative is the same, the loss being a sum over them too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004
        total = values.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return add_up(gradient)
