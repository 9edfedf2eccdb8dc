"""Where two lists of numbers have the same one."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor


def where_equal(
    values: Int[Tensor, " n"], others: Int[Tensor, " r"]
) -> tuple[Int[Tensor, " e"], Int[Tensor, " e"]]:
    """Finds all pairs of equal numbers, without comparing each with each where few are equal.

    Returns:
        Places in `values` and in `others`; in order of both.
    """
    shared = torch.isin(values, others).nonzero()[:, 0]
    places, theirs = (values[shared, None] == others).nonzero(as_tuple=True)
    return shared[places], theirs
