"""How long work tells of itself, without knowing of terminals."""

from __future__ import annotations

from collections.abc import Callable, Sized
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Reporter(Protocol):
    """Listens to a command at work; the command line draws what it hears."""

    def stage(
        self, title: str, total: int | None, unit: str
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Opens a stage of `total` units (None: not known); what it yields takes progress."""
        ...

    def note(self, text: str) -> None:
        """Takes a fact worth a line."""
        ...

    def warn(self, text: str) -> None:
        """Takes something the user should look at."""
        ...


class SilentReporter:
    """Says nothing: the default of the library."""

    def stage(
        self,
        title: str,  # noqa: ARG002
        total: int | None,  # noqa: ARG002
        unit: str,  # noqa: ARG002
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Opens nothing."""
        return nullcontext(_ignore)

    def note(self, text: str) -> None:
        """Drops the note."""

    def warn(self, text: str) -> None:
        """Drops the warning; what it says is in the results too."""


def _ignore(count: int) -> None:
    del count


def shard_count(shards: Sized) -> str:
    """Says how many shards: `1 shard`, `12 shards`."""
    return f"{len(shards)} shard{'' if len(shards) == 1 else 's'}"
