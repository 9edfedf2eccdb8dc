"""Pairs as training sees them: rows into a table of images and a table of captions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor


class Features(NamedTuple):
    """What is stored of images and captions, one row each; an image that repeats has one row.

    Attributes:
        images: [images, f] frozen features.
        texts: [texts, l] frozen features, or [texts, t] token ids padded with 0.
    """

    images: Tensor
    texts: Tensor

    def of(self, pairs: Pairs, *, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """Returns the rows of pairs.

        Args:
            pairs: On any device; on that of the tables, or the CPU, nothing waits for them.
            device: Where the rows go; None: to the pairs. The tables may be elsewhere.
        """
        device = device or pairs.image_rows.device
        return (
            rows_of(self.images, pairs.image_rows, device),
            rows_of(self.texts, pairs.text_rows, device),
        )


@dataclass(frozen=True, slots=True)
class Pairs:
    """Image-caption pairs as rows of `Features`, on their device.

    Equal image rows are the same image, equal text rows the same caption.
    """

    image_rows: Int[Tensor, " n"]
    text_rows: Int[Tensor, " n"]

    def take(self, index: Tensor | slice) -> Pairs:
        """Returns the pairs at `index`."""
        return Pairs(self.image_rows[index], self.text_rows[index])

    def to(self, device: torch.device | str) -> Pairs:
        """Returns the pairs on a device."""
        return Pairs(send(self.image_rows, device), send(self.text_rows, device))

    def __len__(self) -> int:
        return len(self.image_rows)


def join_pairs(*parts: Pairs) -> Pairs:
    """Returns the pairs of all parts, in their order."""
    return Pairs(
        torch.cat([pairs.image_rows for pairs in parts]),
        torch.cat([pairs.text_rows for pairs in parts]),
    )


class TrustedPairs(NamedTuple):
    """Trusted pairs of one part of the split."""

    matched: Pairs
    mismatched: Pairs


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Moves a tensor to a device; nothing waits for it on the way from the CPU to a GPU."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def rows_of(table: Tensor, rows: Int[Tensor, " n"], device: torch.device) -> Tensor:
    """Returns rows of a table on a device; table and row numbers may be on another."""
    return send(table[send(rows, table.device)], device)


def exchange_captions(pairs: Pairs, *, generator: torch.Generator) -> Pairs:
    """Gives every pair the caption of a random other one that shows another image and text.

    A pair for which a few draws find none keeps out of the result.

    Args:
        pairs: Pairs whose captions are exchanged.
        generator: Source of randomness.

    Returns:
        At most as many mismatched pairs.
    """
    count = len(pairs)
    device = pairs.image_rows.device
    caption_of = torch.arange(count, device=device)
    for _ in range(4):
        same = _same(pairs, caption_of)
        if not same.any():
            break
        drawn = torch.randint(count, (int(same.sum()),), generator=generator)
        caption_of[same] = drawn.to(device)
    usable = ~_same(pairs, caption_of)
    return Pairs(pairs.image_rows[usable], pairs.text_rows[caption_of][usable])


def _same(pairs: Pairs, caption_of: Int[Tensor, " n"]) -> Tensor:
    same_image = pairs.image_rows == pairs.image_rows[caption_of]
    return same_image | (pairs.text_rows == pairs.text_rows[caption_of])


def iter_batches(
    count: int, *, batch_size: int, generator: torch.Generator
) -> Iterator[Int[Tensor, " b"]]:
    """Yields shuffled batches of indices; the last, smaller one is spread over the others."""
    batches = max(count // batch_size, 1)
    yield from torch.randperm(count, generator=generator).tensor_split(batches)


def cycle_batches(
    count: int, *, batch_size: int, generator: torch.Generator
) -> Iterator[Int[Tensor, " b"]]:
    """Yields shuffled batches of indices without end."""
    while True:
        yield from iter_batches(count, batch_size=batch_size, generator=generator)
