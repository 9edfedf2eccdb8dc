"""The processes that train together.

All have the same weights, tables and generators, draw the same batches, and divide their rows. What
they compute for own rows is summed: the loss of a batch is that of one process with the same batch,
up to rounding, whatever the number of processes. That holds for the meta gradients too, which call
the networks as functions of their parameters, some twice: gradients are summed where they are used,
instead of by the hooks of DistributedDataParallel, which fire once a backward pass and know nothing
of virtual steps. The networks are small beside the encoders, so there is little to overlap with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from nccleaner.model.rows import Rows, add_up


@dataclass(frozen=True, slots=True)
class World:
    """Which of how many processes this one is; all of them must call the same in the same order.

    Attributes:
        rank: Counted from 0.
        size: With 1, nothing is sent and nothing copied.
    """

    rank: int = 0
    size: int = 1

    def rows(self, count: int) -> Rows:
        """Returns this process's portion of `count` rows."""
        return Rows(count, self.rank, self.size)

    def total(self, parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Returns the sum of each tensor over all processes; can be differentiated."""
        if self.size == 1:
            return tuple(parts)
        joined = add_up(torch.cat([part.flatten() for part in parts]))
        pieces = torch.split(joined, [part.numel() for part in parts])
        return tuple(piece.view_as(part) for piece, part in zip(pieces, parts, strict=True))

    def same(self, tensor: Tensor) -> Tensor:
        """Returns what the first process gave; shape and type must agree."""
        if self.size > 1:
            tensor = tensor.clone()
            dist.broadcast(tensor, src=0)
        return tensor


ALONE = World()
