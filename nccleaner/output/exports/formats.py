"""The formats of an export, and how it is divided: into equal portions, numbered without gaps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from nccleaner.output.exports.kept import KeptPair, KeptPairs

ExportFormat = Literal["webdataset", "csv", "clip-retrieval", "datacomp"]

SAMPLES_PER_SHARD = 10_000  # img2dataset's default


class Portioned(Protocol):
    """A folder that is written in portions, each by itself; equal pairs give equal bytes."""

    @property
    def format(self) -> ExportFormat:
        """Its format."""
        ...

    @property
    def portions(self) -> Path:
        """The folder in which portions appear."""
        ...

    def has(self, name: str) -> bool:
        """Whether a portion is there, whole."""
        ...

    def write(
        self, name: str, pairs: Iterable[KeptPair], *, digits: int, progress: Callable[[int], None]
    ) -> None:
        """Writes a portion.

        Args:
            name: Of the portion.
            pairs: What to write; image bytes are copied as they are.
            digits: Of the number that a pair gets in its portion.
            progress: Called with the number of pairs that are done since the last call.
        """
        ...

    def finish(self, names: Sequence[str], pairs: KeptPairs) -> None:
        """Writes what goes over all portions.

        Args:
            names: Of all portions; they are there.
            pairs: What they hold.
        """
        ...


def portion_names(pairs: int, size: int) -> list[str]:
    """Names the portions of an export: `00000`, `00001`, ..., all of one width.

    Args:
        pairs: Pairs in all portions together.
        size: Pairs in each but the last.
    """
    count = -(-pairs // size)
    width = max(5, len(str(count - 1)))  # img2dataset's, unless there are more
    return [f"{number:0{width}d}" for number in range(count)]
