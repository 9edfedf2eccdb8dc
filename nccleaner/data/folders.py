"""A folder of files in, its members out: img2dataset's `files` output, or images with captions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from nccleaner.data.members import READ_SUFFIXES, Member, readable_name, split_name
from nccleaner.data.storage import list_folder, locate, storage_errors


class FolderMembers:
    """Iterates the files of a folder that belong to samples, in order of key.

    Attributes:
        problems: What is wrong with the folder; complete after iteration.
        cut: False: a folder does not show that files are missing.
    """

    cut = False

    def __init__(self, url: str, *, max_member_bytes: int) -> None:
        self.problems: list[str] = []
        self._url = url
        self._max_member_bytes = max_member_bytes

    def __iter__(self) -> Iterator[Member]:
        fs, path = locate(self._url)
        named: list[tuple[tuple[str, str], str, int]] = []
        strangers: list[str] = []
        for entry in list_folder(fs, path):
            base = readable_name(PurePosixPath(entry["name"]).name)
            name = split_name(base)
            if name is None or entry["type"] == "directory":
                strangers.append(base)
            else:
                named.append((name, entry["name"], entry["size"]))
        for (key, suffix), file, size in sorted(named):
            data = None
            if suffix in READ_SUFFIXES and size <= self._max_member_bytes:
                with storage_errors(file):
                    data = fs.cat_file(file)
            yield Member(key, suffix, size, data)
        if strangers:
            self.problems.append(
                f"{len(strangers)} entries are folders or have no name of the form `key.suffix`, "
                f"and were ignored (the first: `{min(strangers)}`)"
            )
