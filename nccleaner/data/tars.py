"""A tar in, its members out, read once from front to back and never extracted.

Python's `tarfile` ends quietly at a damaged header and at the end of a file that was cut between
two members. Here the end counts only where the block is that marks it.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

from nccleaner.data.members import (
    NAME_ERRORS,
    READ_SUFFIXES,
    Member,
    is_archive_note,
    split_name,
)
from nccleaner.data.storage import BUFFER_BYTES, open_binary

# A forged extended header makes tarfile fail in its own number and text parsing; a chain of them,
# in its recursion.
_BAD_HEADER = (tarfile.TarError, ArithmeticError, LookupError, ValueError, RecursionError)
# An extended header holds a long name, times and the like. On a forged one Python before 3.11.10
# and 3.12.6 spends time that grows with its size squared (CVE-2024-6232): here, about a second.
_MAX_HEADER_BYTES = 1 << 14
# What is looked at behind the end: more than the padding that tar writes by default.
_TAIL_BYTES = 1 << 16


class TarMembers:
    """Iterates the members of a tar that belong to samples.

    Names are only ever split into key and suffix. Links and devices are not followed.

    Attributes:
        problems: What is wrong with the tar; complete after iteration.
        cut: Whether samples may be lost because the tar ends early or is damaged.
    """

    def __init__(self, url: str, *, max_member_bytes: int) -> None:
        self.problems: list[str] = []
        self.cut = False
        self._url = url
        self._max_member_bytes = max_member_bytes

    def __iter__(self) -> Iterator[Member]:
        with open_binary(self._url) as file:
            if not file.peek(1):
                self.cut = True
                self.problems.append("the file is empty")
                return
            stream = _TarStream(file)
            strangers, first = 0, ""
            for header in self._headers(stream):
                name = split_name(header.name)
                if header.isdir() or is_archive_note(header.name):
                    continue
                if name is None or not header.isreg() or header.issparse():
                    strangers, first = strangers + 1, first or header.name
                    continue
                yield (member := self._read(stream, header, *name))
                if not member.whole:
                    self._note_cut(stream, f"inside `{header.name}`")
                    break
            if strangers:
                self.problems.append(
                    f"{strangers} members are links, devices or have no name of the form "
                    f"`key.suffix`, and were ignored (the first: `{first}`)"
                )

    def _headers(self, stream: _TarStream) -> Iterator[tarfile.TarInfo]:
        """Yields header after header, and finds out why there are no more."""
        try:
            # The encoding is set because the default is the machine's.
            tar = tarfile.TarFile(
                fileobj=cast("BinaryIO", stream), encoding="utf-8", errors=NAME_ERRORS
            )
            while (header := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # else it keeps every header
                if header.size < 0:
                    raise tarfile.ReadError("a negative size")
                yield header
        except _BAD_HEADER as error:
            if stream.tell() <= tarfile.BLOCKSIZE:
                self.cut = True
                self.problems.append(f"the file is not a tar ({error})")
            else:
                self._note_cut(stream, f"in a header: {error}")
            return
        self._judge_end(stream)

    def _judge_end(self, stream: _TarStream) -> None:
        """Looks at the block that `tarfile` took for the end, and behind it."""
        if not stream.last_read:
            self._note_cut(stream, "between two members: the blocks that mark the end are missing")
            return
        if any(stream.last_read) or len(stream.last_read) < tarfile.BLOCKSIZE:
            self._note_cut(stream, "in a header")
            return
        try:
            has_tail = stream.tail()
        except tarfile.ReadError as error:
            self.problems.append(f"the archive is damaged behind its last sample ({error})")
            return
        if has_tail:
            self.problems.append(
                f"more data follows the end of the archive at byte {stream.tell()} and was not "
                "read; were several tars joined into one?"
            )

    def _read(self, stream: _TarStream, header: tarfile.TarInfo, key: str, suffix: str) -> Member:
        size = header.size
        end = stream.tell() + size
        data = None
        try:
            if suffix in READ_SUFFIXES and size <= self._max_member_bytes:
                data = stream.content(size)
            else:
                stream.seek(end)
        except tarfile.ReadError:
            data = None
        whole = stream.tell() == end
        return Member(key, suffix, size, data if whole else None, whole)

    def _note_cut(self, stream: _TarStream, where: str) -> None:
        self.cut = True
        why = f" ({stream.damage})" if stream.damage else ""
        self.problems.append(f"the tar is cut or damaged at byte {stream.tell()} {where}{why}")


class _TarStream:
    """What `tarfile` reads from: forward only, unzipped where needed.

    Attributes:
        last_read: The last bytes that were read; after the last header, the block that ended it.
        damage: What is wrong with the compressed data; empty where nothing is.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        is_gzip = file.peek(2)[:2] == b"\x1f\x8b"
        self._file = gzip.GzipFile(fileobj=file) if is_gzip else file
        self._position = 0
        self.last_read = b""
        self.damage = ""

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        """Goes forward to `position`, or to the end where that is before it."""
        if position < self._position:
            raise tarfile.ReadError("a header points backwards")
        while self._position < position:
            if not self._read(min(position - self._position, BUFFER_BYTES)):
                return

    def read(self, size: int) -> bytes:
        """Reads a header, for `tarfile`."""
        if size > _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self.last_read = self._read(size)
        return self.last_read

    def content(self, size: int) -> bytes:
        """Reads the content of a member; less where the end comes before."""
        return self._read(size)

    def tail(self) -> bool:
        """Whether anything but zeros follows."""
        return any(self._read(_TAIL_BYTES))

    def _read(self, size: int) -> bytes:
        try:
            data = self._file.read(size)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            self.damage = f"gzip: {error}"
            raise tarfile.ReadError(self.damage) from error
        self._position += len(data)
        return data
