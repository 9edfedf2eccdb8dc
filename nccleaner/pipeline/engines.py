"""Where work that is divided by shards is done.

A job opens what it needs once in each process, encoders for example, and then does one item after
the other, a shard mostly. Items know nothing of each other, and what an item leaves are files that
appear whole, so that doing one twice changes nothing. The results, and every byte, are the same
wherever items are done.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Lock
from typing import Literal, Protocol, TypeAlias, TypeVar, get_args

from nccleaner.errors import MissingDependencyError, UsageError

EngineName = Literal["local", "ray"]

Item = TypeVar("Item")
Result = TypeVar("Result")
Item_contra = TypeVar("Item_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)

# What threads gain ends where the disk and the interpreter are busy.
_MOST_THREADS = 8
# Each holds what an item needs: of a shard of 10,000 pairs some 0.2 GB.
_MOST_WITH_NETWORKS = 16

# Takes how many units, samples mostly, are done since the last call.
Advance: TypeAlias = Callable[[int], None]
Work: TypeAlias = Callable[[Item, Advance], Result]


class Job(Protocol[Item_contra, Result_co]):
    """Work to be done on items. Job and items are sent to other processes: small, and picklable."""

    @property
    def folders(self) -> Sequence[Path]:
        """Where it reads and writes beside the shards, absolute; the same folders everywhere."""
        ...

    @property
    def device(self) -> str | None:
        """Where its networks run, as configured: `auto`, `cpu`, `cuda`; None: it has none."""
        ...

    @property
    def in_threads(self) -> bool:
        """Whether several threads may do items at once, by what one `open` gave.

        Networks on a CPU then compute with one thread for an item, here or elsewhere; on a GPU one
        item is done after the other all the same.
        """
        ...

    def name(self, item: Item_contra) -> str:
        """What people call an item: `shard 00012`."""
        ...

    def open(self) -> AbstractContextManager[Work[Item_contra, Result_co]]:
        """Opens what all items need; what it gives does one item."""
        ...


class Engine(Protocol):
    """Does jobs."""

    def run(
        self, job: Job[Item, Result], items: Sequence[Item], advance: Advance
    ) -> Iterator[Result]:
        """Does all items; yields their results in the order of the items.

        What killed runs left half-written in the folders of the job is cleared.

        Raises:
            NccleanerError: As the work raised it. Items that are done stay done.
        """
        ...


class LocalEngine:
    """Does items in this process: one after the other, or as many at once as there are cores."""

    def run(
        self, job: Job[Item, Result], items: Sequence[Item], advance: Advance
    ) -> Iterator[Result]:
        """Does all items."""
        from nccleaner.files import remove_leftovers

        for folder in job.folders:
            remove_leftovers(folder)
        if items:
            with job.open() as work:
                if not job.in_threads or not _on_cpu(job.device):
                    for item in items:
                        yield work(item, advance)
                elif job.device is None:
                    yield from _run_in_threads(work, items, advance, most=_MOST_THREADS)
                else:
                    yield from _run_networks_in_threads(work, items, advance)


def _on_cpu(device: str | None) -> bool:
    if device is None:
        return True
    from nccleaner.pipeline.backbones import resolve_device

    return resolve_device(device) == "cpu"


def _run_networks_in_threads(
    work: Work[Item, Result], items: Sequence[Item], advance: Advance
) -> Iterator[Result]:
    """Does items in as many threads as PyTorch would use, and lets it use one in each.

    Threads that each do an item of their own do not wait for each other, as those do that share
    every operator.
    """
    import torch

    threads = torch.get_num_threads()
    try:
        yield from _run_in_threads(
            work,
            items,
            advance,
            most=min(threads, _MOST_WITH_NETWORKS),
            begin=partial(torch.set_num_threads, 1),
        )
    finally:
        torch.set_num_threads(threads)  # what a thread sets holds for all that are yet to come


def _run_in_threads(
    work: Work[Item, Result],
    items: Sequence[Item],
    advance: Advance,
    *,
    most: int,
    begin: Callable[[], None] | None = None,
) -> Iterator[Result]:
    """Does items at once; few results wait, as those that are too early are held back.

    Where it ends before its time, what is being done ends when it next tells of progress.

    Args:
        work: Does one item.
        items: What to do.
        advance: Hears of progress, from one thread at a time.
        most: Threads at the most.
        begin: Called in each thread before it does anything.
    """
    from loky import cpu_count

    lock, ended = Lock(), Event()

    def advance_alone(count: int) -> None:
        if ended.is_set():
            raise CancelledError
        with lock:
            advance(count)

    threads = min(cpu_count(), most, len(items))
    with ThreadPoolExecutor(threads, initializer=begin) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                if len(waiting) == 2 * threads:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(work, item, advance_alone))
            while waiting:
                yield waiting.popleft().result()
        finally:
            ended.set()
            for future in waiting:
                future.cancel()


@contextmanager
def open_engine(name: EngineName) -> Iterator[Engine]:
    """Opens an engine; on leaving, what it started ends.

    Args:
        name: `local`, this process; or `ray`, a cluster.

    Raises:
        UsageError: There is no such engine.
        MissingDependencyError: Ray is not installed.
    """
    if name not in get_args(EngineName):
        raise UsageError(
            f"There is no engine {name!r}.", f"Use one of {', '.join(get_args(EngineName))}."
        )
    if name == "local":
        yield LocalEngine()
        return
    # Read when Ray is loaded. Without it Ray tells of actors that die on standard output.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*")
    try:
        from nccleaner.pipeline.ray_engine import RayEngine
    except ImportError as error:
        raise MissingDependencyError(
            f"The engine ray needs a package that is not installed: {error.name}.",
            "Install it: pip install 'nccleaner[ray]'",
        ) from error
    with RayEngine() as engine:
        yield engine
