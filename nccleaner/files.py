"""Files and folders that appear under their real name only when they are whole.

Whatever is written is written under a temporary name beside its place and renamed at the end, so
that a file under its real name means "done" and an interrupted run leaves nothing half-written.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nccleaner.errors import InputError, RunError

# Hidden, so that globs and readers of Parquet folders pass over it; marked, so that it is known
# for ours when the run that wrote it is gone. `old` holds what a folder replaced.
_LEFTOVER = re.compile(r"\.nccleaner-(?P<kind>tmp|old)-[0-9a-f]{8}-(?P<name>.+)")

# For every Parquet file that is written. Compliance would rename the items of lists, and so change
# the types of columns that are passed on. Looking long for repeats in columns that have none, such
# as URLs and digests, is a quarter of the time of writing.
PARQUET_OPTIONS: Mapping[str, Any] = {
    "compression": "zstd",
    "dictionary_pagesize_limit": 1 << 14,
    "use_compliant_nested_type": False,
}


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Gives a temporary path to write; on leaving, the file there becomes `path` in one step.

    After an error the temporary file is removed and `path` is as it was. The folder of `path` is
    made where it is missing. The temporary path keeps the suffix of `path`. The mode of the file is
    that of any new file, by the umask.

    Args:
        path: Where the file goes.

    Yields:
        The path to write to, in the folder of `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors lets nobody else read, whatever the umask says
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Gives a temporary folder to fill; on leaving, it becomes `path` with all its files.

    After an error the temporary folder is removed and `path` is as it was. No file system replaces
    a filled folder in one step: an earlier `path` is moved aside first, so for an instant there is
    none, and there is never one with files of both. If the process dies in that instant,
    `remove_leftovers` puts the earlier folder back.

    Args:
        path: Where the folder goes.

    Yields:
        An empty folder beside `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    aside = _temporary(path, "old")
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                sync(file)
        _put(temporary, path, aside)
    except BaseException:
        if aside.exists() and not path.exists():
            with suppress(OSError):  # another writer was faster
                aside.replace(path)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(data: Mapping[str, object], path: Path) -> None:
    """Writes `data` as indented JSON, whole or not at all.

    Raises:
        ValueError: A number in `data` is not finite; JSON has no word for it.
    """
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    with replace_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_parquet(table: pa.Table, path: Path) -> None:
    """Writes `table` as Parquet, whole or not at all."""
    with replace_file(path) as temporary:
        pq.write_table(table, temporary, **PARQUET_OPTIONS)


def read_parquet(source: Path | pa.NativeFile, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads a Parquet file of ours, whole or some columns of it.

    Much sooner done than by `pyarrow.parquet.read_table`, which loads pandas where there is one.

    Raises:
        OSError: It is missing or cannot be read.
        pyarrow.ArrowException: It is damaged.
    """
    with pq.ParquetFile(source) as file:
        return file.read(columns=columns)


def claim_folder(folder: Path, note: str, arguments: str) -> None:
    """Makes a folder ours, or finds that an earlier call with the same arguments did.

    Args:
        folder: Missing, empty, or left by such a call; it may have been interrupted.
        note: Name of the hidden file in it that remembers the arguments.
        arguments: All that decides what will be written there.

    Raises:
        InputError: The folder holds something else.
    """
    claim = folder / note
    if claim.is_file() and claim.read_text(encoding="utf-8") == arguments:
        remove_leftovers(folder)
        return
    if folder.exists() and (not folder.is_dir() or _has_content(folder)):
        found = "was made with other arguments" if claim.is_file() else "is not an empty folder"
        raise InputError(f"{folder} {found}.", "Name a new folder, or remove this one.")
    remove_leftovers(folder)  # of a call that ended before it could claim
    with replace_file(claim) as temporary:
        temporary.write_text(arguments, encoding="utf-8")


def _has_content(folder: Path) -> bool:
    return not all(_LEFTOVER.fullmatch(path.name) for path in folder.iterdir())


@contextmanager
def mark_folder(folder: Path) -> Iterator[Path]:
    """Leaves an empty hidden file in a folder for a while: who sees it sees the same folder.

    Args:
        folder: Where; it is made where it is missing.

    Yields:
        The file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / f".nccleaner-mark-{secrets.token_hex(4)}"
    mark.touch()
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)


def refuse_links(folder: Path) -> None:
    """Refuses a folder that somebody else may have made so that writing in it writes elsewhere.

    nccleaner makes no links. That the folder is itself reached by one is the user's choice.

    Args:
        folder: Where something is about to be written; it may be missing.

    Raises:
        RunError: There is a symbolic link in it, at any depth.
    """
    folders = [str(folder)] if folder.exists() else []
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    raise RunError(
                        f"{entry.path} is a link; in {folder} nothing is written through links.",
                        "Put what it leads to in its place, or remove it. To have the folder on "
                        "another disk, move it there as a whole.",
                    )
                if entry.is_dir():
                    folders.append(entry.path)


def remove_leftovers(folder: Path) -> list[Path]:
    """Clears what runs that were killed left half-written directly in `folder`.

    A folder that was moved aside and whose successor never arrived goes back to its place. Call it
    only while no other process writes in `folder`.

    Args:
        folder: Where to look; it may be missing.

    Returns:
        The temporary paths that are gone now.
    """
    if not folder.is_dir():
        return []
    leftovers = []
    for path in sorted(folder.iterdir()):
        match = _LEFTOVER.fullmatch(path.name)
        if match is None:
            continue
        leftovers.append(path)
        original = folder / match["name"]
        if match["kind"] == "old" and not original.exists():
            path.replace(original)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return leftovers


def _put(folder: Path, path: Path, aside: Path) -> None:
    """Makes a folder `path`; an earlier one goes `aside`.

    Two processes may do so at once, when one was believed dead: the folder of either then stays.
    """
    while True:
        with suppress(FileNotFoundError):
            path.replace(aside)
        try:
            folder.replace(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # the other one was in between; nothing is aside where it had moved it
            shutil.rmtree(aside, ignore_errors=True)
        else:
            return


def _temporary(path: Path, kind: str = "tmp") -> Path:
    return path.with_name(f".nccleaner-{kind}-{secrets.token_hex(4)}-{path.name}")


def sync(path: Path) -> None:
    """Waits until the content is on the disk, lest after a power cut the name is there without."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
