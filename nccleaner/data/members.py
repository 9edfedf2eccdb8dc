"""Members of a tar or files of a folder in, samples-to-be out: groups that share a key.

The rules are webdataset's: a sample is a run of adjacent members with one key; key and suffix part
at the first dot of the base name, so that folders belong to the key; the suffix is lower-cased.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
READ_SUFFIXES = frozenset((*IMAGE_SUFFIXES, "txt", "json"))
# What becomes of bytes in a name that are no UTF-8. Names that differ in such bytes must not become
# the same, or their members would mix.
NAME_ERRORS = "backslashreplace"

# What Python makes of such bytes unless told otherwise (PEP 383).
_STRAY_BYTE = re.compile("[\udc80-\udcff]")
# webdataset, `base_plus_ext`.
_NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$", re.DOTALL)
# webdataset, `tar_file_iterator(skip_meta=...)`: its own notes about the archive.
_ARCHIVE_NOTE = re.compile(r"__[^/]*__($|/)")


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a sample.

    Attributes:
        key: The sample's key.
        suffix: What follows the key and its dot, lower case.
        size_bytes: Its size as the shard states it.
        data: Its content; None where the suffix is not in `READ_SUFFIXES`, where the member is
            larger than the limit, and where it is not whole.
        whole: False where the shard is cut or damaged inside this member.
    """

    key: str
    suffix: str
    size_bytes: int
    data: bytes | None
    whole: bool = True

    @property
    def role(self) -> str:
        """What it is to the sample: `image` for every kind of image, else the suffix."""
        return "image" if self.suffix in IMAGE_SUFFIXES else self.suffix


@dataclass(frozen=True, slots=True)
class Group:
    """The members of one sample, by suffix; `last` where the shard holds no more of them."""

    key: str
    members: dict[str, Member]
    last: bool

    @property
    def image(self) -> Member | None:
        """Its image; of several, the first kind in the order of `IMAGE_SUFFIXES`."""
        return next((self.members[s] for s in IMAGE_SUFFIXES if s in self.members), None)


def readable_name(name: str) -> str:
    r"""Writes a name as Python reads it, with bytes that are no UTF-8, as text that fits tables.

    The byte, `\udcff` to Python, becomes `\xff`, as in a name that was read with `NAME_ERRORS`.
    """
    if name.isascii():
        return name
    bytes_written = _STRAY_BYTE.sub(lambda byte: f"\\x{ord(byte[0]) - 0xDC00:02x}", name)
    return bytes_written.encode("utf-8", NAME_ERRORS).decode()


def split_name(name: str) -> tuple[str, str] | None:
    """Parts a name into key and suffix; None where webdataset would not see a sample's member."""
    match = _NAME.match(name)
    return (match[1], match[2].lower()) if match else None


def is_archive_note(name: str) -> bool:
    """Whether webdataset takes a member of this name for a note about the archive."""
    return _ARCHIVE_NOTE.match(name) is not None


def group_members(members: Iterable[Member]) -> Iterator[Group]:
    """Groups adjacent members of one key; a suffix that comes again starts another group."""
    key, group = "", dict[str, Member]()
    for member in members:
        if group and (member.key != key or member.suffix in group):
            yield Group(key, group, last=False)
            group = {}
        key, group[member.suffix] = member.key, member
    if group:
        yield Group(key, group, last=True)
