"""Where work that is divided by shards is done.

A job opens what it needs once in each process, encoders for example, and then does one item after
the other, a shard mostly. Items know nothing of each other, and what an item leaves are files that
appear whole, so that doing one twice changes nothing. The results, and every byte, are the same
wherever items are done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeAlias, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Item_contra = TypeVar("Item_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)

# Takes how many units, samples mostly, are done since the last call.
Advance: TypeAlias = Callable[[int], None]
Work: TypeAlias = Callable[[Item, Advance], Result]


class Job(Protocol[Item_contra, Result_co]):
    """Work to be done on items. It is sent to other processes: small, and picklable."""

    def open(self) -> AbstractContextManager[Work[Item_contra, Result_co]]:
        """Opens what all items need; what it gives does one item."""
        ...


class Engine(Protocol):
    """Does jobs."""

    def run(
        self, job: Job[Item, Result], items: Sequence[Item], advance: Advance
    ) -> Iterator[Result]:
        """Does all items; yields their results in the order of the items.

        Raises:
            NccleanerError: As the work raised it. Items that are done stay done.
        """
        ...


class LocalEngine:
    """Does one item after the other in this process."""

    def run(
        self, job: Job[Item, Result], items: Sequence[Item], advance: Advance
    ) -> Iterator[Result]:
        """Does all items."""
        if items:
            with job.open() as work:
                for item in items:
                    yield work(item, advance)
