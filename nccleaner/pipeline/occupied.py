"""One process at a time in a run directory; what killed ones left half-written is cleared."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from nccleaner.errors import RunError
from nccleaner.files import refuse_links, remove_leftovers

LOCK = ".nccleaner-lock"


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Keeps a folder for this process; other processes are refused while it works there.

    The system drops the lock of a process that ends, however it ends, so that none is ever stale.
    Temporary files in the folder and in those right below it are then nobody's, and are removed.

    Args:
        folder: A run directory, or where results of another data set go; made where missing.

    Raises:
        RunError: Another process works there, the message says which; or there are links in it, or
            it cannot be written to.
    """
    refuse_links(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _take(folder / LOCK)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        raise RunError(
            f"{folder} cannot be written to: {error.strerror}.",
            "Work on a copy of it, or give another folder.",
        ) from error
    with lock as file:
        _sign(file)
        try:
            remove_leftovers(folder)
            for path in folder.iterdir():
                remove_leftovers(path)
            yield
        finally:
            Path(file.name).unlink(missing_ok=True)


def _take(path: Path) -> TextIO:
    """Opens the lock file, alone."""
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                raise RunError(
                    f"{path.parent} is in use by {_read_signature(file)}.",
                    "Wait for it to end, or give another folder.",
                ) from None
        # The one before may have removed the file between the two calls.
        if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            return file
        file.close()


def _sign(file: TextIO) -> None:
    file.truncate(0)
    signature = {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    file.write(json.dumps(signature))
    file.flush()


def _read_signature(file: TextIO) -> str:
    file.seek(0)
    try:
        found = json.load(file)
        return "process {process} on {host} since {since}: {command}".format(**found)
    except (ValueError, LookupError, TypeError):
        return "another process"
