"""Jobs for the tests of the Ray engine: slow, deadly or failing on demand, and real in all else."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nccleaner.files import replace_file
from nccleaner.pipeline.engines import Advance, Work

UNITS = 10


@dataclass(frozen=True)
class Numbering:
    """Writes the file `<item>` in a folder, and `opened-<process>` where it is opened.

    Attributes:
        folder: The folder.
        item_s: What an item takes.
        deaths: How many processes an item kills, half-way.
        fails: Items that fail.
        device: What it says that it computes on.
        in_threads: Whether threads might do items.
    """

    folder: Path
    item_s: float = 0.0
    deaths: dict[int, int] = field(default_factory=dict)
    fails: dict[int, Exception] = field(default_factory=dict)
    device: str | None = None
    in_threads: bool = False

    @property
    def folders(self) -> tuple[Path, ...]:
        return (self.folder,)

    def name(self, item: int) -> str:
        return f"number {item}"

    @contextmanager
    def open(self) -> Iterator[Work[int, dict]]:
        (self.folder / f"opened-{os.getpid()}").touch()
        try:
            yield self._number
        finally:
            (self.folder / f"closed-{os.getpid()}").touch()

    def _number(self, item: int, advance: Advance) -> dict:
        with replace_file(self.folder / str(item)) as temporary:
            temporary.write_text("half")
            for unit in range(UNITS):
                time.sleep(self.item_s / UNITS)
                if unit == UNITS // 2:
                    self._die(item)
                advance(1)
            if item in self.fails:
                raise self.fails[item]
            temporary.write_text(str(item**2))
        import ray  # as the engine loads it: not before it has said how

        return {
            "item": item,
            "process": os.getpid(),
            "node": ray.get_runtime_context().get_node_id(),
            "main": threading.current_thread() is threading.main_thread(),
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        }

    def _die(self, item: int) -> None:
        died = len(list(self.folder.glob(f"died-{item}-*")))
        if died < self.deaths.get(item, 0):
            (self.folder / f"died-{item}-{died}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
