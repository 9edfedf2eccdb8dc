"""Work that is divided by shards, done on a Ray cluster.

A pool of Ray actors opens the job, each once; an item is a task, and an actor has one at a time. An
actor that is lost, with its process or its node, loses nothing: another one does its item again.
Only items and results travel; what is read and written lies in folders that all nodes share.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, chdir, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeAlias

import ray
from ray.exceptions import RayError, RayTaskError

import nccleaner
from nccleaner.errors import InputError, NccleanerError
from nccleaner.files import mark_folder, remove_leftovers
from nccleaner.pipeline.engines import Advance, Item, Job, LocalEngine, Result, Work

# How often an item is tried that its actor does not survive; and how often a job is opened, on
# average over the actors.
_TRIES = 3
_PROGRESS_S = 0.5
_LOOK_S = 5.0  # for nodes that came or went
_CLOSE_S = 10.0
_REACH_S = 10.0
_VISIBLE_S = 10.0  # NFS remembers for a while what is in a folder
_OPENING = -1
_INSTALLED = Path(nccleaner.__file__).resolve().parents[1]

_Ref: TypeAlias = ray.ObjectRef[Any]


class RayEngine:
    """Does items on a Ray cluster, each on whichever node has room.

    The cluster is the one that this process is connected to, else that of `RAY_ADDRESS`, else one
    that runs on this machine, else one that is started here and stopped at the end.

    An actor of a job with networks gets a GPU where the cluster has any, unless they are to run on
    CPUs. Else, of a job that would be done in threads, it gets one CPU, and of any other as many as
    this process has threads, on whose number the last bits of what networks compute depend. An
    actor of a job without networks gets one CPU.
    """

    def __init__(self) -> None:
        self._connection = ExitStack()

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()

    def __reduce__(self) -> tuple[type[LocalEngine], tuple[()]]:
        """Goes to an actor as what does there what a job asks of other jobs."""
        return LocalEngine, ()

    def run(
        self, job: Job[Item, Result], items: Sequence[Item], advance: Advance
    ) -> Iterator[Result]:
        """Does all items; see `Engine`.

        Raises:
            NccleanerError: As the work raised it; or there is no cluster, its nodes do not fit, or
                actors die of the same item again and again.
        """
        for folder in job.folders:
            remove_leftovers(folder)
        if not items:
            return
        self._connect()
        with ExitStack() as stack:
            marks = tuple(stack.enter_context(mark_folder(folder)) for folder in job.folders)
            home = _Home(version("nccleaner"), Path.cwd(), marks, _threads(job))
            pool = _Pool(job, items, home, advance)
            stack.callback(pool.kill)
            yield from pool.results()
        # Of actors that were lost.
        for folder in job.folders:
            remove_leftovers(folder)

    def _connect(self) -> None:
        if ray.is_initialized():
            return
        address = os.environ.get("RAY_ADDRESS", "")
        host, _, port = address.removeprefix("ray://").rpartition(":")
        try:
            if port.isdigit():  # Ray would look for it for minutes
                socket.create_connection((host, int(port)), timeout=_REACH_S).close()
            # Ray lets its processes import modules of the folder that it is connected from, before
            # any others: a data set's folder may hold a signal.py. nccleaner's own is safe.
            with chdir(_INSTALLED):
                ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            raise NccleanerError(
                f"There is no Ray cluster at {address or 'this machine'}: {_first_line(error)}",
                "Set RAY_ADDRESS to that of a cluster, or unset it: one is started here then.",
            ) from error
        self._connection.callback(ray.shutdown)


@dataclass(frozen=True, slots=True)
class _Home:
    """What an actor must find as it is where the command was typed.

    Attributes:
        version: Of nccleaner.
        folder: In which the command was typed; encoders may be named by paths from there.
        marks: Files in the folders of the job.
        threads: With which networks compute; 0 where there are none.
    """

    version: str
    folder: Path
    marks: tuple[Path, ...]
    threads: int

    def settle(self) -> None:
        """Makes a process what it would be there, as far as a job depends on it.

        Raises:
            NccleanerError: nccleaner is of another version here.
            InputError: A folder is not here.
        """
        here, node = version("nccleaner"), ray.util.get_node_ip_address()
        if here != self.version:
            raise NccleanerError(
                f"Node {node} has nccleaner {here}; the command was typed with {self.version}.",
                "Install the same version on all nodes.",
            )
        for mark in self.marks:
            if not _shows(mark):
                raise InputError(
                    f"Node {node} does not see what was just written to {mark.parent}.",
                    "Name folders that all nodes share; or leave out --engine ray.",
                )
        with suppress(OSError):
            os.chdir(self.folder)
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as on the command line
        if self.threads:
            import torch

            torch.set_num_threads(self.threads)


class _Actor:
    """Runs in a process of its own, somewhere in the cluster."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._index = _OPENING
        self._units = 0
        self._next_report_s = 0.0

    def open(self, home: _Home, job: Sequence[_Ref], cpus: int, gpus: int) -> str:
        """Opens the job, which comes as a reference, lest it is read before all is checked.

        Returns:
            Which node this is.
        """
        if not gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        # As many processes decode as there are CPUs, unless loky is told of fewer.
        os.environ["LOKY_MAX_CPU_COUNT"] = str(cpus)
        home.settle()
        self._opened: AbstractContextManager[Work[Any, Any]] = ray.get(job[0]).open()
        self._work = self._opened.__enter__()
        node: str = ray.get_runtime_context().get_node_id()
        return node

    def do(self, index: int, item: Any) -> tuple[Any, int]:
        """Does an item; returns its result, and its units of progress."""
        self._index, self._units = index, 0
        return self._work(item, self._advance), self._units

    def close(self) -> None:
        """Closes the job."""
        self._opened.__exit__(None, None, None)

    def _advance(self, count: int) -> None:
        self._units += count
        if time.monotonic() >= self._next_report_s:
            self._next_report_s = time.monotonic() + _PROGRESS_S
            self._progress.add.remote(self._index, self._units)


class _Progress:
    """Hears from the actors how far they are, for the driver to ask: an actor itself."""

    def __init__(self) -> None:
        self._units: dict[int, int] = {}

    def add(self, index: int, units: int) -> None:
        """Takes how many units of an item are done."""
        self._units[index] = units

    def take(self) -> dict[int, int]:
        """Gives what it heard since it was asked last."""
        units, self._units = self._units, {}
        return units


@dataclass(frozen=True, slots=True)
class _Slots:
    """Room for actors.

    Attributes:
        count: How many there may be.
        cpus: Of each.
        gpus: Of each, 0 or 1.
    """

    count: int
    cpus: int
    gpus: int

    @staticmethod
    def of_cluster(*, threads: int, gpu: bool) -> _Slots:
        """Divides what all nodes have.

        Args:
            threads: Of an actor.
            gpu: Whether it can use a GPU.
        """
        nodes: list[Mapping[str, float]] = [
            node["Resources"] for node in ray.nodes() if node["Alive"]
        ]
        with_gpu = [node for node in nodes if gpu and node.get("GPU")]
        if with_gpu:
            share = min(int(node.get("CPU", 0) // node["GPU"]) for node in with_gpu)
            return _Slots(sum(int(node["GPU"]) for node in with_gpu), max(share, 1), 1)
        cpus = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
        share = min([max(threads, 1), *cpus])
        return _Slots(sum(count // share for count in cpus), share, 0)


class _Pool(Generic[Item, Result]):
    """The actors of one job; as many as the cluster has room for while it is at work.

    Args:
        job: The job.
        items: Its items.
        home: What each actor must find.
        advance: Hears of progress.
    """

    def __init__(
        self, job: Job[Item, Result], items: Sequence[Item], home: _Home, advance: Advance
    ) -> None:
        self._job, self._items, self._home, self._advance = job, items, home, advance
        self._job_ref = ray.put(job)
        self._remote: Any = ray.remote(_Actor)
        self._waiting = deque(range(len(items)))
        self._actors: list[Any] = []
        self._idle: list[Any] = []
        self._nodes: dict[Any, str] = {}
        self._tasks: dict[_Ref, tuple[Any, int]] = {}
        progress: Any = ray.remote(num_cpus=0, max_restarts=-1)(_Progress)
        self._progress = progress.remote()
        self._asked = self._progress.take.remote()
        self._units: Counter[int] = Counter()
        self._lost: Counter[int] = Counter()
        self._next_look_s = 0.0

    def results(self) -> Iterator[Result]:
        """Does all items, yields their results in order, and closes the job."""
        done: dict[int, Result] = {}
        for index in range(len(self._items)):
            while index not in done:
                self._look_for_room()
                self._show_progress()
                while self._waiting and self._idle:
                    self._give(self._idle.pop(), self._waiting.popleft())
                for ref in ray.wait(list(self._tasks), timeout=_PROGRESS_S)[0]:
                    done.update(self._take(ref))
            yield done.pop(index)
        closing = [actor.close.remote() for actor in self._idle]
        ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_S)

    def kill(self) -> None:
        """Ends all actors at once."""
        for actor in (*self._actors, self._progress):
            ray.kill(actor)

    def _look_for_room(self) -> None:
        """Starts as many actors as there are unfinished items, or slots for them."""
        if time.monotonic() < self._next_look_s:
            return
        self._next_look_s = time.monotonic() + _LOOK_S
        slots = _Slots.of_cluster(
            threads=self._home.threads, gpu=self._job.device not in (None, "cpu")
        )
        if not slots.count:
            raise NccleanerError(
                "The Ray cluster has no CPUs to work with.",
                "Wait for its nodes, then run the same command again: items that are done are not "
                "done twice.",
            )
        doing = sum(index != _OPENING for _, index in self._tasks.values())
        wanted = min(slots.count, len(self._waiting) + doing)
        for _ in range(wanted - len(self._actors)):
            actor = self._remote.options(
                num_cpus=slots.cpus,
                num_gpus=slots.gpus,
                scheduling_strategy="SPREAD",
            ).remote(self._progress)
            self._actors.append(actor)
            opened = actor.open.remote(self._home, [self._job_ref], slots.cpus, slots.gpus)
            self._tasks[opened] = (actor, _OPENING)

    def _give(self, actor: Any, index: int) -> None:
        self._tasks[actor.do.remote(index, self._items[index])] = (actor, index)

    def _take(self, ref: _Ref) -> dict[int, Result]:
        """Takes what an actor answered; returns the result of its item if there is one."""
        actor, index = self._tasks.pop(ref)
        try:
            answer = ray.get(ref)
        except RayTaskError as error:
            raise error.cause from error
        except RayError as error:  # the process is gone, or its node
            self._lose(actor, index, error)
            return {}
        self._idle.append(actor)
        if index == _OPENING:
            self._lost[_OPENING] = 0
            self._nodes[actor] = answer
            return {}
        result, units = answer
        self._show(index, units)
        return {index: result}

    def _lose(self, actor: Any, index: int, error: RayError) -> None:
        """Gives up an actor, not what it was at."""
        self._lost[index] += 1
        if index != _OPENING and self._lost[index] == _TRIES:
            name = self._job.name(self._items[index])
            raise NccleanerError(
                f"The process that was at {name} died, {_TRIES} times.",
                "Look for a reason in the logs of Ray and of the system: too little memory, for "
                "example. Then run the same command again.",
            ) from error
        if index == _OPENING and self._lost[index] >= _TRIES * len(self._actors):
            raise NccleanerError(
                f"Processes die before they do anything, {self._lost[index]} times in a row: "
                f"{_first_line(error)}",
                "Check that nccleaner is installed on all nodes and that its encoders fit in "
                "memory; see the logs of Ray.",
            ) from error
        # If it was the node, idle ones there are gone, too, and would take the item for nothing.
        beside = [idle for idle in self._idle if self._nodes[idle] == self._nodes.get(actor)]
        for gone in (actor, *beside):
            ray.kill(gone)
            self._actors.remove(gone)
        self._idle = [idle for idle in self._idle if idle not in beside]
        if index != _OPENING:
            self._waiting.appendleft(index)
        self._next_look_s = 0.0

    def _show_progress(self) -> None:
        """Shows what the actors told."""
        answered, _ = ray.wait([self._asked], timeout=0)
        if answered:
            with suppress(RayError):  # it was lost with its node
                for index, units in ray.get(self._asked).items():
                    self._show(index, units)
            self._asked = self._progress.take.remote()

    def _show(self, index: int, units: int) -> None:
        """Shows progress beyond what was shown of an item, which may have been begun anew."""
        if units > self._units[index]:
            self._advance(units - self._units[index])
            self._units[index] = units


def _threads(job: Job[Item, Result]) -> int:
    """How many threads networks compute with, here or in an actor; 0 where there are none."""
    if job.device is None:
        return 0
    on_gpus = _Slots.of_cluster(threads=1, gpu=job.device != "cpu").gpus
    if job.in_threads and not on_gpus:
        return 1
    import torch

    return torch.get_num_threads()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _shows(path: Path) -> bool:
    """Waits for a file that was written on another node."""
    end_s = time.monotonic() + _VISIBLE_S
    while not path.exists():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.2)
    return True
