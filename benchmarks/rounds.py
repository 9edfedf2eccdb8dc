"""Stages and their limits in turn, round after round; and the memory that a stage takes at most.

A busy machine slows both sides of a ratio that is taken within a round, and hardly the ratio.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Seconds: TypeAlias = npt.NDArray[np.float64]

_PROC = Path("/proc")
_SAMPLE_S = 0.1
_WAIT_S = 1800.0


@dataclass(frozen=True)
class Row:
    """A stage beside its limit.

    Attributes:
        stage: What was measured.
        limit: What it cannot be faster than, or what it is compared with.
        unit: What is counted.
        count: Units in a round.
        seconds: [rounds], of the stage.
        limit_s: [rounds], of the limit.
        peak_bytes: Of the stage alone in processes of its own; None where it was not measured.
    """

    stage: str
    limit: str
    unit: str
    count: float
    seconds: Seconds
    limit_s: Seconds
    peak_bytes: int | None = None

    @property
    def shares(self) -> Seconds:
        """[rounds], the stage's speed as a share of its limit's; 1: none is lost."""
        return self.limit_s / self.seconds

    def cells(self) -> tuple[str, ...]:
        """Returns the row as text: medians, and the lowest and highest share of a round."""
        shares = 100 * self.shares
        memory = "-" if self.peak_bytes is None else f"{self.peak_bytes / 1e6:,.0f}"
        return (
            self.stage,
            f"{self.count / np.median(self.seconds):,.4g} {self.unit}/s",
            self.limit,
            f"{self.count / np.median(self.limit_s):,.4g}",
            f"{np.median(shares):.0f} % ({shares.min():.0f} to {shares.max():.0f})",
            memory,
        )

    def record(self) -> dict[str, Any]:
        """Returns the row as plain data, with the seconds of each round."""
        return {
            "stage": self.stage,
            "limit": self.limit,
            "unit": self.unit,
            "count": self.count,
            "seconds": self.seconds.tolist(),
            "limit_s": self.limit_s.tolist(),
            "share": float(np.median(self.shares)),
            "peak_bytes": self.peak_bytes,
        }


HEADING = ("stage", "rate", "its limit", "rate", "of the limit", "peak, MB")


def run_rounds(parts: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, Seconds]:
    """Times all parts in turn: once to warm up, and then as often as asked.

    Returns:
        Seconds of each part, [rounds], by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for number in range(rounds + 1):
        for name, part in parts.items():
            start = time.perf_counter()
            part()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: np.array(found) for name, found in seconds.items()}


def peak_memory(stage: Callable[..., object], *arguments: object) -> int | None:
    """Runs a stage in a new process, and watches it and all processes that it starts.

    Args:
        stage: A function at the top level of a module.
        arguments: What it is called with; they can be pickled.

    Returns:
        The most bytes that they held together at one time: each page that processes share counts
        once (Linux's PSS). None where /proc does not tell.

    Raises:
        RuntimeError: The stage failed.
    """
    process = multiprocessing.get_context("spawn").Process(target=stage, args=arguments)
    process.start()
    assert process.pid is not None
    peak = 0
    deadline = time.monotonic() + _WAIT_S
    while process.is_alive() and time.monotonic() < deadline:
        peak = max(peak, tree_bytes(process.pid))
        process.join(_SAMPLE_S)
    if process.is_alive():
        process.kill()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{stage.__name__} failed with exit code {process.exitcode}")
    return peak or None


def tree_bytes(root: int) -> int:
    """Adds up the memory of a process and of all that descend from it; 0 where nothing tells."""
    return sum(_own_bytes(pid) for pid in _descendants(root))


def _descendants(root: int) -> Iterator[int]:
    children: defaultdict[int, list[int]] = defaultdict(list)
    for folder in _PROC.glob("[0-9]*"):
        try:
            # Behind the name, which may hold anything, come the state and the parent.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        children[int(fields[1])].append(int(folder.name))
    waiting = [root]
    while waiting:
        yield (pid := waiting.pop())
        waiting += children[pid]


def _own_bytes(pid: int) -> int:
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
