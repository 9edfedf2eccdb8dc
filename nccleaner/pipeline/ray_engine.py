"""Work that is divided by shards, done on a Ray cluster.

A pool of Ray actors opens the job, each once; an item is a task, and an actor has one at a time. An
actor that is lost, with its process or its node, loses nothing: another one does its item again.
Only items and results travel; what is read and written lies in folders that all nodes share.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, chdir
from importlib.metadata import version
from pathlib import Path

import ray

import nccleaner
from nccleaner.errors import NccleanerError
from nccleaner.files import mark_folder, remove_leftovers
from nccleaner.pipeline.engines import Advance, Item, Job, LocalEngine, Result
from nccleaner.pipeline.ray_actor import Home
from nccleaner.pipeline.ray_pool import Pool, Slots, first_line

_REACH_S = 10.0
_INSTALLED = Path(nccleaner.__file__).resolve().parents[1]


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
            home = Home(version("nccleaner"), Path.cwd(), marks, _threads(job))
            pool = Pool(job, items, home, advance)
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
                f"There is no Ray cluster at {address or 'this machine'}: {first_line(error)}",
                "Set RAY_ADDRESS to that of a cluster, or unset it: one is started here then.",
            ) from error
        self._connection.callback(ray.shutdown)


def _threads(job: Job[Item, Result]) -> int:
    """How many threads networks compute with, here or in an actor; 0 where there are none."""
    if job.device is None:
        return 0
    on_gpus = Slots.of_cluster(threads=1, gpu=job.device != "cpu").gpus
    if job.in_threads and not on_gpus:
        return 1
    import torch

    return torch.get_num_threads()
