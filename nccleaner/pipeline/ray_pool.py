"""The actors of one job on a Ray cluster: started, given items, replaced where they are lost.

In: a job and its items. Out: results, in the order of the items.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic

import ray
from ray.exceptions import RayError, RayTaskError

from nccleaner.errors import NccleanerError
from nccleaner.pipeline.engines import Advance, Item, Job, Result
from nccleaner.pipeline.ray_actor import OPENING, PROGRESS_S, Actor, Home, Progress, Ref

# How often an item is tried that its actor does not survive; and how often a job is opened, on
# average over the actors.
_TRIES = 3
_LOOK_S = 5.0  # for nodes that came or went
_CLOSE_S = 10.0


@dataclass(frozen=True, slots=True)
class Slots:
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
    def of_cluster(*, threads: int, gpu: bool) -> Slots:
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
            return Slots(sum(int(node["GPU"]) for node in with_gpu), max(share, 1), 1)
        cpus = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
        share = min([max(threads, 1), *cpus])
        return Slots(sum(count // share for count in cpus), share, 0)


class Pool(Generic[Item, Result]):
    """The actors of one job; as many as the cluster has room for while it is at work.

    Args:
        job: The job.
        items: Its items.
        home: What each actor must find.
        advance: Hears of progress.
    """

    def __init__(
        self, job: Job[Item, Result], items: Sequence[Item], home: Home, advance: Advance
    ) -> None:
        self._job, self._items, self._home, self._advance = job, items, home, advance
        self._job_ref = ray.put(job)
        self._remote: Any = ray.remote(Actor)
        self._waiting = deque(range(len(items)))
        self._actors: list[Any] = []
        self._idle: list[Any] = []
        self._nodes: dict[Any, str] = {}
        self._tasks: dict[Ref, tuple[Any, int]] = {}
        progress: Any = ray.remote(num_cpus=0, max_restarts=-1)(Progress)
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
                for ref in ray.wait(list(self._tasks), timeout=PROGRESS_S)[0]:
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
        slots = Slots.of_cluster(
            threads=self._home.threads, gpu=self._job.device not in (None, "cpu")
        )
        if not slots.count:
            raise NccleanerError(
                "The Ray cluster has no CPUs to work with.",
                "Wait for its nodes, then run the same command again: items that are done are not "
                "done twice.",
            )
        doing = sum(index != OPENING for _, index in self._tasks.values())
        wanted = min(slots.count, len(self._waiting) + doing)
        for _ in range(wanted - len(self._actors)):
            actor = self._remote.options(
                num_cpus=slots.cpus,
                num_gpus=slots.gpus,
                scheduling_strategy="SPREAD",
            ).remote(self._progress)
            self._actors.append(actor)
            opened = actor.open.remote(self._home, [self._job_ref], slots.cpus, slots.gpus)
            self._tasks[opened] = (actor, OPENING)

    def _give(self, actor: Any, index: int) -> None:
        self._tasks[actor.do.remote(index, self._items[index])] = (actor, index)

    def _take(self, ref: Ref) -> dict[int, Result]:
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
        if index == OPENING:
            self._lost[OPENING] = 0
            self._nodes[actor] = answer
            return {}
        result, units = answer
        self._show(index, units)
        return {index: result}

    def _lose(self, actor: Any, index: int, error: RayError) -> None:
        """Gives up an actor, not what it was at."""
        self._lost[index] += 1
        if index != OPENING and self._lost[index] == _TRIES:
            name = self._job.name(self._items[index])
            raise NccleanerError(
                f"The process that was at {name} died, {_TRIES} times.",
                "Look for a reason in the logs of Ray and of the system: too little memory, for "
                "example. Then run the same command again.",
            ) from error
        if index == OPENING and self._lost[index] >= _TRIES * len(self._actors):
            raise NccleanerError(
                f"Processes die before they do anything, {self._lost[index]} times in a row: "
                f"{first_line(error)}",
                "Check that nccleaner is installed on all nodes and that its encoders fit in "
                "memory; see the logs of Ray.",
            ) from error
        # If it was the node, idle ones there are gone, too, and would take the item for nothing.
        beside = [idle for idle in self._idle if self._nodes[idle] == self._nodes.get(actor)]
        for gone in (actor, *beside):
            ray.kill(gone)
            self._actors.remove(gone)
        self._idle = [idle for idle in self._idle if idle not in beside]
        if index != OPENING:
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


def first_line(error: Exception) -> str:
    """Returns what an error says first; Ray's go on with where they were raised."""
    return str(error).partition("\n")[0]
