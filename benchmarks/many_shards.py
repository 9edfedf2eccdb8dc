"""Memory and open files of the commands while they go through many small shards.

    python benchmarks/many_shards.py work --shards 10000

Writes shards of three drawings each, and runs `fit`, `score`, `purge` and `export` on them, each in
a process of its own that looks at itself ten times a second: what it holds must not grow with the
shards that are done. The networks are small and few pairs are trained on, as those do not matter.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import io
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
from PIL import Image
from tables import markdown

import nccleaner
from nccleaner.config import RunConfig
from nccleaner.data.writing import sample_members, write_tar

SAMPLES = 3
_TRUSTED = 120
_MAX_PAIRS = 3_000
_LOOK_S = 0.1
_SIZE_PX = 48
_COLOURS = ("red", "green", "blue", "yellow", "black", "grey")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Look(NamedTuple):
    """What a process holds at a moment.

    Attributes:
        stage: What it is at.
        share: How much of that is done, in [0, 1].
        memory_bytes: Resident. It grows for a while without a leak, as more of what was freed
            is used again.
        used_bytes: What malloc has handed out and not got back; 0 where the C library does not
            tell.
        blocks: Likewise of Python's own allocator, in blocks.
        files: Open descriptors.
    """

    stage: str
    share: float
    memory_bytes: int
    used_bytes: int
    blocks: int
    files: int


class _MallInfo2(ctypes.Structure):
    """What glibc tells of malloc, in its order."""

    _fields_: ClassVar = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def _used_bytes() -> int:
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is None:
        return 0
    mallinfo2.restype = _MallInfo2
    told = mallinfo2()
    return int(told.uordblks + told.hblkhd)


class Watch:
    """A reporter that looks at its own process while work goes on.

    Args:
        total: Units of a stage that does not know how many it has.

    Attributes:
        looks: In order.
    """

    def __init__(self, total: int) -> None:
        self.looks: list[Look] = []
        self._total = total
        self._stage, self._done, self._of = "", 0, 1
        self._ended = threading.Event()

    @contextmanager
    def stage(self, title: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
        """Notes what is being done."""
        del unit
        self._stage, self._done, self._of = title, 0, total or self._total

        def advance(count: int) -> None:
            self._done += count

        yield advance
        self._look()
        self._stage = f"after: {title}"

    def note(self, text: str) -> None:
        """Is not interested."""

    def warn(self, text: str) -> None:
        """Is not interested."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Looks until the block is left."""
        thread = threading.Thread(target=self._look_on)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _look_on(self) -> None:
        while not self._ended.wait(_LOOK_S):
            self._look()

    def _look(self) -> None:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - sooner done
        share = min(self._done / max(self._of, 1), 1.0)
        self.looks.append(
            Look(
                self._stage,
                share,
                memory_bytes=pages * _PAGE_BYTES,
                used_bytes=_used_bytes(),
                blocks=sys.getallocatedblocks(),
                files=files,
            )
        )


@dataclass(frozen=True)
class ManyShards:
    """Shards, a trusted file and a run directory in a folder.

    Attributes:
        folder: Where.
        count: Shards.
    """

    folder: Path
    count: int

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.folder / "run"

    def write(self) -> None:
        """Writes shards and the trusted file."""
        shards = self.folder / "shards"
        shards.mkdir(parents=True)
        for number in range(self.count):
            write_tar(shards / f"{number:05d}.tar", _members(number))
        with (self.folder / "trusted.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["key"])
            step = max(self.count // _TRUSTED, 1)
            writer.writerows([_key(number, 0)] for number in range(0, self.count, step))

    def watch(self, command: str) -> list[Look]:
        """Runs a command in a process of its own."""
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(run_command, self, command).result()


def run_command(many: ManyShards, command: str) -> list[Look]:
    """Runs `fit`, `score`, `purge` or `export`; returns what it held on the way."""
    watch = Watch(many.count * SAMPLES)
    arguments: dict[str, Any] = {"reporter": watch}
    if command == "fit":
        small = {"joint_width": 32, "similarity_width": 8, "meta_hidden_width": 8}
        config = RunConfig.model_validate(
            {
                "data": {"workers": 0},
                "model": small,
                "train": {"epochs": 1, "min_steps": 0, "warm_up": 0.5, "max_pairs": _MAX_PAIRS},
                "purify": {"references": 64, "neighbours": 10},
            }
        )
        arguments |= {"meta": many.folder / "trusted.csv", "run": many.run, "config": config}
    if command == "purge":
        arguments |= {"keep_fraction": 0.6}
    if command == "export":
        arguments |= {"out": many.folder / "exported", "samples_per_shard": 2 * SAMPLES}
    first = many.folder / "shards" if command == "fit" else many.run
    with watch.watching():
        getattr(nccleaner, command)(first, **arguments)
    return watch.looks


def at(looks: Sequence[Look], stage: str, share: float) -> Look:
    """What was held when a share of a stage was done: the last look before it was exceeded."""
    of_stage = [look for look in looks if look.stage == stage]
    return [look for look in of_stage if look.share <= share + 1e-9 or look is of_stage[0]][-1]


def _members(number: int) -> Iterator[tuple[str, bytes]]:
    """The members of a shard: one drawing, under as many captions as there are samples."""
    draw = np.random.default_rng(number)
    pixels = draw.integers(256, size=(_SIZE_PX // 8, _SIZE_PX // 8, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).resize((_SIZE_PX, _SIZE_PX)).save(data, "jpeg")
    for place in range(SAMPLES):
        colour = _COLOURS[int(pixels[0, 0, 0]) % len(_COLOURS)]
        caption = f"{colour} pattern, number {number}, seen the {place}. time"
        yield from sample_members(
            _key(number, place),
            image=data.getvalue(),
            suffix="jpg",
            caption=caption,
            fields={"caption": caption},
        )


def _key(number: int, place: int) -> str:
    return f"{number:06d}{place}"


def _rows(many: ManyShards, command: str) -> Iterator[list[str]]:
    looks = many.watch(command)
    most = max(look.files for look in looks)
    stages = dict.fromkeys(
        look.stage
        for look in looks
        if f"{many.count} shards" in look.stage or "Writing" in look.stage
    )
    for stage in stages:
        if stage.startswith("after"):
            continue
        held = [at(looks, stage, share) for share in (0.1, 0.5, 1.0)]
        cells = [f"{look.memory_bytes / 1e6:.0f} MB, {look.files} files" for look in held]
        yield [f"`{command}`", stage, *cells, f"{most}"]


def main() -> None:
    """Runs the script."""
    title, _, rest = cast(str, __doc__).partition("\n")
    parser = argparse.ArgumentParser(
        description=title, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, metavar="WORK", help="a new folder")
    parser.add_argument("--shards", type=int, default=10_000)
    arguments = parser.parse_args()
    many = ManyShards(arguments.work, arguments.shards)
    many.write()
    header = ["command", "stage", "a tenth done", "half done", "done", "most open files"]
    rows = []
    for command in ("fit", "score", "purge", "export"):
        for row in _rows(many, command):
            rows.append(row)
            print(" | ".join(row), flush=True)
    print(markdown(header, rows))
    log = many.run / "metrics.jsonl"
    print(f"metrics.jsonl: {log.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
