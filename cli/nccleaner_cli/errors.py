"""How a command ends: 0 done, 1 failed, 2 used wrongly, 130 by Ctrl-C, 143 by SIGTERM."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

from nccleaner.errors import NccleanerError, UsageError
from nccleaner_cli.text import escape_controls, one_line

FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130
TERMINATED = 143

# What is to be done where a file could not be written, whichever library wrote it.
_REMEDIES = {
    errno.ENOSPC: "Make room on the disk",
    errno.EDQUOT: "Make room on the disk",
    errno.EFBIG: "Allow larger files (ulimit -f)",
}


class TerminatedError(KeyboardInterrupt):
    """Raised where SIGTERM finds the process."""


def end_in_order() -> None:
    """Makes SIGTERM, of a batch system for example, end the process as Ctrl-C does.

    What it had started then ends first, and leaves no semaphores behind. Processes of torchrun,
    which ends them by this signal, are left alone: they may wait for each other where no exception
    arrives.
    """
    if which_process() is None:
        signal.signal(signal.SIGTERM, _raise_terminated)


@contextmanager
def exit_codes(*, debug: bool) -> Iterator[None]:
    """Turns what goes wrong inside into a line for people, a next step and an exit code.

    Args:
        debug: Show the traceback too.
    """
    try:
        with interruptible():
            yield
    except NccleanerError as error:
        if debug:
            _show_traceback(error)
        _tell("Error", error.message)
        if error.next_step:
            _tell("Next", error.next_step)
        sys.exit(WRONG_USAGE if isinstance(error, UsageError) else FAILED)
    except Exception as error:
        _tell("Error", f"{type(error).__name__}: {error}".removesuffix(": "))
        if debug:
            _show_traceback(error)
        elif remedy := _remedy(error):
            _tell("Next", f"{remedy}, then run again: finished work is not done twice.")
        else:
            _tell("Next", "Run again with --debug to see where; finished work is not done twice.")
        sys.exit(FAILED)


@contextmanager
def interruptible() -> Iterator[None]:
    """Turns Ctrl-C and SIGTERM inside into a line for people and an exit code."""
    try:
        yield
    except KeyboardInterrupt as error:
        _tell("Interrupted", "Run the same command again: finished work is not done twice.")
        sys.exit(TERMINATED if isinstance(error, TerminatedError) else INTERRUPTED)


def which_process() -> int | None:
    """Returns which of several processes that torchrun started this one is; None where it is alone.

    The first is 0.
    """
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    return int(os.environ.get("RANK", "0")) if several else None


def _remedy(error: Exception) -> str:
    found = (text for code, text in _REMEDIES.items() if os.strerror(code) in str(error))
    return next(found, "")


def _raise_terminated(_signal: int, _frame: FrameType | None) -> None:
    raise TerminatedError


def _tell(label: str, text: str) -> None:
    colors = {"Next": "cyan", "Interrupted": "yellow"}
    start = click.style(f"{label}:", fg=colors.get(label, "red"), bold=True)
    if which := which_process():
        start = f"Process {which}: {start}"
    click.echo(f"{start} {one_line(text)}", err=True)


def _show_traceback(error: Exception) -> None:
    for line in "".join(traceback.format_exception(error)).splitlines():
        click.echo(escape_controls(line), err=True)
