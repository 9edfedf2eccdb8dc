"""What runs in the processes of a Ray cluster.

In: a job, then its items one by one. Out: their results, and how far each is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import ray

from nccleaner.errors import InputError, NccleanerError
from nccleaner.pipeline.engines import Work

PROGRESS_S = 0.5
# In place of an item's number: the job itself.
OPENING = -1
_VISIBLE_S = 10.0  # NFS remembers for a while what is in a folder

Ref: TypeAlias = ray.ObjectRef[Any]


@dataclass(frozen=True, slots=True)
class Home:
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


class Actor:
    """Runs in a process of its own, somewhere in the cluster."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._index = OPENING
        self._units = 0
        self._next_report_s = 0.0

    def open(self, home: Home, job: Sequence[Ref], cpus: int, gpus: int) -> str:
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
            self._next_report_s = time.monotonic() + PROGRESS_S
            self._progress.add.remote(self._index, self._units)


class Progress:
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


def _shows(path: Path) -> bool:
    """Waits for a file that was written on another node."""
    end_s = time.monotonic() + _VISIBLE_S
    while not path.exists():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.2)
    return True
