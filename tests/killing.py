"""Commands in processes of their own that are ended on the way, at a chosen rename or moment."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from nccleaner_cli.main import cli

# Processes that are forked from one that has imported everything start in no time.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        *("killing", "faiss", "sentence_transformers", "sklearn.metrics", "torchvision.models"),
        *("nccleaner.pipeline.fit", "nccleaner.pipeline.purge", "nccleaner.pipeline.export"),
    ]
)
_LIMIT_S = 280


@dataclass(frozen=True)
class AtRename:
    """Right before or after a file or folder gets its name, counted from 0: SIGKILL."""

    number: int
    before: bool


@dataclass(frozen=True)
class AfterSeconds:
    """A signal from outside, some time after the start."""

    seconds: float
    signal: signal.Signals


Fault = AtRename | AfterSeconds


@dataclass(frozen=True)
class Ended:
    """How a process ended: what it printed, its exit code (minus the signal), its renames."""

    output: str
    exit_code: int
    renames: int
    seconds: float


def run_command(words: Sequence[str], folder: Path, fault: Fault | None = None) -> Ended:
    """Runs `nccleaner WORDS` in a folder."""
    log = folder.with_name(f"{folder.name}.log")
    log.write_text("")  # lest there is none where the end comes early
    start = time.monotonic()
    process = CONTEXT.Process(target=_run, args=(list(words), str(folder), str(log), fault))
    process.start()
    if isinstance(fault, AfterSeconds):
        process.join(fault.seconds)
        if process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, fault.signal)
    process.join(_LIMIT_S)
    assert process.exitcode is not None, f"nccleaner {' '.join(words)} hangs"
    *lines, _ = [*log.read_text("utf-8").splitlines(), ""]
    renames = [json.loads(line[len("renames ") :]) for line in lines if line.startswith("renames ")]
    return Ended("\n".join(lines), process.exitcode, (renames or [0])[-1], time.monotonic() - start)


def _run(words: list[str], folder: str, log: str, fault: Fault | None) -> None:
    os.chdir(folder)
    with open(log, "w", encoding="utf-8") as file:  # noqa: PTH123 - before anything of ours runs
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    renames = _count_renames(fault)
    try:
        cli.main(words, standalone_mode=True)
    finally:
        print(f"renames {renames()}", flush=True)
        sys.stderr.flush()


def _count_renames(fault: Fault | None) -> Callable[[], int]:
    """Counts the renames of this process; the one that is named is its last act."""
    numbers = count()

    def wrap(rename: Callable[..., None]) -> Callable[..., None]:
        def counted(*paths: object, **options: object) -> None:
            number = next(numbers)  # in one step, whichever thread renames
            here = isinstance(fault, AtRename) and fault.number == number
            if here and fault.before:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(*paths, **options)
            if here:
                os.kill(os.getpid(), signal.SIGKILL)

        return counted

    os.replace, os.rename = wrap(os.replace), wrap(os.rename)
    return lambda: next(numbers)
