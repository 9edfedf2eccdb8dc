"""How a command ends: 0 done, 1 failed, 2 used wrongly, 130 interrupted by the user."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import click

from nccleaner.errors import NccleanerError, UsageError
from nccleaner_cli.text import escape_controls, one_line

FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130


@contextmanager
def exit_codes(*, debug: bool) -> Iterator[None]:
    """Turns what goes wrong inside into a line for people, a next step and an exit code.

    Args:
        debug: Show the traceback too.
    """
    try:
        yield
    except KeyboardInterrupt:
        _tell("Interrupted", "Run the same command again: shards that are done are not done twice.")
        sys.exit(INTERRUPTED)
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
        elif os.strerror(errno.ENOSPC) in str(error):  # whichever library wrote
            _tell("Next", "Make room on the disk, then run again: finished work is not done twice.")
        else:
            _tell("Next", "Run again with --debug to see where; finished work is not done twice.")
        sys.exit(FAILED)


def which_process() -> int | None:
    """Returns which of several processes that torchrun started this one is; None where it is alone.

    The first is 0.
    """
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    return int(os.environ.get("RANK", "0")) if several else None


def _tell(label: str, text: str) -> None:
    colors = {"Next": "cyan", "Interrupted": "yellow"}
    start = click.style(f"{label}:", fg=colors.get(label, "red"), bold=True)
    if which := which_process():
        start = f"Process {which}: {start}"
    click.echo(f"{start} {one_line(text)}", err=True)


def _show_traceback(error: Exception) -> None:
    for line in "".join(traceback.format_exception(error)).splitlines():
        click.echo(escape_controls(line), err=True)
