"""The formats of an export, and how it is divided: into equal portions, numbered without gaps."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from typing import Literal

ExportFormat = Literal["webdataset", "csv", "clip-retrieval", "datacomp"]

SAMPLES_PER_SHARD = 10_000  # img2dataset's default


def portion_names(pairs: int, size: int) -> list[str]:
    """Names the portions of an export: `00000`, `00001`, ..., all of one width.

    Args:
        pairs: Pairs in all portions together.
        size: Pairs in each but the last.
    """
    count = -(-pairs // size)
    width = max(5, len(str(count - 1)))  # img2dataset's, unless there are more
    return [f"{number:0{width}d}" for number in range(count)]


def count_done(done: Iterable[bool]) -> int:
    """How many portions are there before the first one that is not: where an export goes on."""
    return sum(1 for _ in takewhile(bool, done))
