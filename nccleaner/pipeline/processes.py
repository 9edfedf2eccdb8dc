"""The processes that torchrun started: who speaks, where each computes, how they meet and part.

The first one is the command: it alone reads the input, writes files and reports. The others wait
until they are told what to train, take their part in each batch, and wait again for the result.
Whatever stops one of them stops all: the one ends with its error, torchrun ends the others on its
machine, and those on other machines see their connection closed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from nccleaner.errors import RunError, UsageError
from nccleaner.pipeline.backbones import resolve_device
from nccleaner.train.world import ALONE, World

if TYPE_CHECKING:
    import torch.distributed as dist

# Between two steps the others wait for what the first one writes after an epoch.
_STEP_TIMEOUT = timedelta(minutes=30)
# While it extracts features, for as long as that takes: who waits notices if it ends.
_WAIT_TIMEOUT = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those of one command.

    Attributes:
        world: Which it is.
        waiting: The group in which they wait for the first one; None where this is the only one.
    """

    world: World = ALONE
    waiting: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this is the one that reads, writes and speaks."""
        return self.world.rank == 0

    def share(self, value: Any = None) -> Any:
        """Returns what the first process gives; the others give nothing, and wait for it."""
        if self.waiting is None:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.waiting)
        return box[0]


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Joins the processes that torchrun started; alone where it started none.

    Args:
        device: Where training runs, or `auto`; each process has a GPU of its own.

    Raises:
        UsageError: A machine has fewer GPUs than processes, or one GPU is named for all.
        RunError: Another process ended.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    import torch
    import torch.distributed as dist

    named = torch.device(resolve_device(device))
    gpu = named.type == "cuda"
    if gpu:
        torch.cuda.set_device(_own_gpu(named.index, torch.cuda.device_count()))
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=_STEP_TIMEOUT)
    waiting = dist.new_group(backend="gloo", timeout=_WAIT_TIMEOUT)
    assert isinstance(waiting, dist.ProcessGroup)
    try:
        yield Processes(World(dist.get_rank(), dist.get_world_size()), waiting)
    except dist.DistError as error:
        raise _parted() from error
    except RuntimeError as error:
        if "gloo" not in str(error):  # which has no type of its own for what it raises
            raise
        raise _parted() from error
    # After an error nobody waits for anybody any more: the process just ends.
    dist.destroy_process_group()


def own_device(device: str) -> str:
    """Returns where this process of several trains: on its GPU where a GPU is meant, or `auto`."""
    import torch

    kind = torch.device(resolve_device(device)).type
    return f"cuda:{torch.cuda.current_device()}" if kind == "cuda" else kind


def _own_gpu(named: int | None, count: int) -> int:
    if named is not None:
        raise UsageError(
            f"cuda:{named} is one GPU, and each process needs its own.",
            "Give --device cuda; CUDA_VISIBLE_DEVICES says which are used.",
        )
    place = int(os.environ.get("LOCAL_RANK", "0"))
    if place >= count:
        raise UsageError(
            f"This machine has {count} usable GPUs, and process {place + 1} on it finds none.",
            "Give torchrun --nproc-per-node no more than that, or --device cpu.",
        )
    return place


def _parted() -> RunError:
    return RunError(
        "Another process of this training has ended; its own message says why.",
        "Start all of them again: training goes on after its last whole epoch.",
    )
