"""Folders, globs, brace patterns and lists of them in, shards out.

What is a shard: a tar; a Parquet file with image bytes; a folder of images. A Parquet file and a
`_stats.json` with the stem of a tar or folder are img2dataset's notes about it, not shards.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from nccleaner.data.members import IMAGE_SUFFIXES, split_name
from nccleaner.data.metadata import DAMAGED_PARQUET
from nccleaner.data.parquet import image_column
from nccleaner.data.storage import (
    file_info,
    is_http,
    list_folder,
    locate,
    open_binary,
    refuse_chain,
    storage_errors,
)
from nccleaner.errors import ShardError, UsageError
from nccleaner.identity import is_file_name
from nccleaner.records import Shard, ShardKind

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
LOOKED_FOR = (
    "tars (.tar, .tar.gz, .tgz), Parquet files with image bytes in a column "
    f"{', '.join(IMAGE_SUFFIXES)}, and folders of such images"
)

# What the storages call the mark that changes with the content, the best first.
_VERSION_FIELDS = (
    *("ETag", "etag", "md5Hash", "Content-MD5", "Digest", "content_md5"),
    *("mtime", "LastModified", "last_modified", "Last-Modified", "updated", "modified", "created"),
)
_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")
_GLOB = re.compile(r"[*?\[]")
# Questions to a remote storage that are under way at a time.
_PROBES = 16

Entry = dict[str, Any]  # what fsspec tells of a file or folder: `name`, `type`, `size`, ...


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a shard is, before it is looked at closely; `path` without protocol."""

    fs: Any
    path: str
    kind: ShardKind


def find_shards(sources: str | Path | Sequence[str | Path]) -> list[Shard]:
    """Finds the shards that `sources` name.

    Args:
        sources: A folder, a file, a glob, a brace pattern (`{00000..00099}`, `{train,val}`), or a
            list of those; local paths or URLs of any storage that fsspec knows. A folder is
            searched for tars, if there are none for Parquet files with images, if there are none
            for folders of images; itself may be one. On web servers, which cannot be listed, files
            must be named: by brace patterns or lists.

    Returns:
        The shards in order of their names, which are unique.

    Raises:
        ShardError: If a source names nothing, if a named file is not there or is no shard, if two
            shards share a name, or if a storage fails.
    """
    named = [sources] if isinstance(sources, str | Path) else list(sources)
    urls = [url for source in named for url in expand_braces(str(source))]
    places = dict.fromkeys(place for url in urls for place in _places(url))
    if not places:
        raise ShardError("No shards were named.", f"Name a folder or files: {LOOKED_FOR}.")
    tars = {_stem(place.path) for place in places if place.kind == "webdataset"}
    sidecars = [p for p in places if p.kind == "parquet" and _stem(p.path) in tars]
    with ThreadPoolExecutor(_PROBES) as pool:
        shards = list(pool.map(_describe, [p for p in places if p not in sidecars]))
    return _unique(shards)


def check_unchanged(shard: Shard) -> None:
    """Refuses a shard that is not what it was when it was found.

    What is known of it, features, scores and decisions, is known of the earlier content.

    Raises:
        ShardError: It has changed, or is gone.
    """
    if find_shards(shard.url) != [shard]:
        raise ShardError(
            f"Shard {shard.name} at {shard.url} has changed since it was first read.",
            "Run `nccleaner fit` again, or score it as another data set with --output DIR.",
        )


def refuse_inside_input(shards: Sequence[Shard], out: Path) -> None:
    """Refuses to write among the shards.

    Raises:
        UsageError: `out` is, or is inside, a folder that holds a shard.
    """
    place = out.resolve()
    for shard in shards:
        fs, path = locate(shard.url)
        is_local = isinstance(fs, LocalFileSystem)
        if is_local and place.is_relative_to(Path(path).resolve().parent):
            raise UsageError(
                f"{out} lies in the folder of the shard {shard.url}; input is never written to.",
                "Name a folder elsewhere.",
            )


def expand_braces(pattern: str) -> Iterator[str]:
    """Expands `{a,b}` and `{00..99}` as bash and webdataset do; other braces are left alone."""
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    first, last, words = match.groups()
    if words is not None:
        choices: Iterable[str] = words.split(",")
    else:
        is_padded = any(len(number) > 1 and number[0] == "0" for number in (first, last))
        width = max(len(first), len(last)) if is_padded else 0
        choices = (str(number).zfill(width) for number in range(int(first), int(last) + 1))
    for choice in choices:
        yield from expand_braces(pattern[: match.start()] + choice + pattern[match.end() :])


def _places(url: str) -> Iterator[_Place]:
    """Finds what one URL, a folder, file or glob, stands for."""
    fs, path = locate(url)
    if is_http(url):
        # "?" begins the query there.
        if "*" in path or path.endswith("/"):
            raise ShardError(
                f"{url}: a web server cannot be listed.",
                "Name the files, for example with a brace pattern: .../{00000..00099}.tar",
            )
        found = [_file(fs, path)]
    else:
        with storage_errors(url):
            is_glob = bool(_GLOB.search(path)) and not fs.exists(path)
            is_folder = not is_glob and fs.isdir(path)
        if is_glob:
            with storage_errors(url):
                matches = list(fs.glob(path, detail=True).values())
            found = _in_listing(fs, matches) or [
                place for entry in _folders(fs, matches) for place in _in_folder(fs, entry["name"])
            ]
        else:
            found = _in_folder(fs, path) if is_folder else [_file(fs, path)]
    if not found:
        deeper = next(_folders_with_shards(fs, path), None)
        advice = f"Looked for {LOOKED_FOR}."
        if deeper:
            advice = f"There are some one level down, in {deeper}: name that folder."
        raise ShardError(f"No shards at {url}.", advice)
    yield from found


def _file(fs: Any, path: str) -> _Place:
    """The place of a file that the user named, so that it must be a shard."""
    name = _without_query(path).lower()
    if name.endswith(TAR_SUFFIXES):
        return _Place(fs, path, "webdataset")
    if name.endswith(".parquet"):
        return _Place(fs, path, "parquet")
    with storage_errors(path):
        exists = fs.exists(path)
    if exists:
        raise ShardError(f"{path} is not a shard.", f"Shards are {LOOKED_FOR}.")
    raise ShardError(f"{path} does not exist.", "Check the path; a folder, file or glob was tried.")


def _in_folder(fs: Any, path: str) -> list[_Place]:
    """The shards in a folder, or the folder itself where it holds images."""
    entries = list_folder(fs, path)
    if found := _in_listing(fs, entries):
        return found
    inner = [entry["name"] for entry in _folders(fs, entries)]
    if found := [_Place(fs, name, "files") for name in inner if _is_files_shard(fs, name)]:
        return found
    return [_Place(fs, path, "files")] if _is_files_shard(fs, path) else []


def _folders_with_shards(fs: Any, path: str) -> Iterator[str]:
    """Names folders in a folder in which there are shards, among the first few."""
    if fs.isdir(path):
        for entry in islice(_folders(fs, list_folder(fs, path)), _PROBES):
            if _in_folder(fs, entry["name"]):
                yield _url(fs, entry["name"])


def _in_listing(fs: Any, entries: Iterable[Entry]) -> list[_Place]:
    """The tars among `entries`; if there are none, the Parquet files if they hold images."""
    files = [
        entry["name"]
        for entry in entries
        if entry["type"] != "directory" and not _is_hidden(entry["name"])
    ]
    if tars := [name for name in files if name.lower().endswith(TAR_SUFFIXES)]:
        return [_Place(fs, name, "webdataset") for name in tars]
    folders = {entry["name"].rstrip("/") for entry in entries if entry["type"] == "directory"}
    tables = [
        name
        for name in sorted(files)
        if name.lower().endswith(".parquet") and _stem(name) not in folders
    ]
    # One answers for all: to open each of thousands would take minutes on a remote storage.
    if tables and _has_images(fs.unstrip_protocol(tables[0])):
        return [_Place(fs, name, "parquet") for name in tables]
    return []


def _folders(fs: Any, entries: Iterable[Entry]) -> Iterator[Entry]:
    """The folders among `entries`, links to folders too, but img2dataset's `_tmp` and the like."""
    for entry in entries:
        is_link = entry["type"] == "other" and fs.isdir(entry["name"])
        if (entry["type"] == "directory" or is_link) and not _is_hidden(entry["name"]):
            yield entry


def _is_files_shard(fs: Any, path: str) -> bool:
    """Whether a folder holds images, or img2dataset's notes say that it should."""
    names = (split_name(PurePosixPath(entry["name"]).name) for entry in list_folder(fs, path))
    if any(name is not None and name[1] in IMAGE_SUFFIXES for name in names):
        return True
    return file_info(fs, f"{path.rstrip('/')}.parquet") is not None


def _has_images(url: str) -> bool:
    with open_binary(url) as file:
        try:
            return image_column(pq.read_schema(file)) is not None
        except DAMAGED_PARQUET:
            return True  # reading it will say what is wrong


def _describe(place: _Place) -> Shard:
    """Asks the storage for what a shard's record holds."""
    fs, path = place.fs, place.path
    stem = _stem(_without_query(path))
    if place.kind == "files":
        stem = path.rstrip("/")
        size_bytes, version = 0, _folder_version(list_folder(fs, path))
    else:
        with storage_errors(path):
            entry = fs.info(path)
        size = entry.get("size")
        size_bytes, version = -1 if size is None else size, _version(entry)
    sidecar = None if place.kind == "parquet" else file_info(fs, f"{stem}.parquet")
    stats = file_info(fs, f"{stem}_stats.json")
    name = PurePosixPath(stem).name
    refuse_chain(path)
    if not is_file_name(name):
        raise ShardError(f"{path} gives no name for a shard.", "Rename it, for example to 0.tar.")
    if sidecar is not None:
        # Captions and columns come from there, so its changes count as the shard's.
        version = f"{version}+{sidecar.get('size')}@{_version(sidecar)}"
    return Shard(
        name=name,
        url=_url(fs, path),
        kind=place.kind,
        sidecar_url=None if sidecar is None else _url(fs, sidecar["name"]),
        stats_url=None if stats is None else _url(fs, stats["name"]),
        size_bytes=size_bytes,
        version=version,
    )


def _unique(shards: Iterable[Shard]) -> list[Shard]:
    """Sorts shards by name; two of one name could not be told apart in any output."""
    named: dict[str, Shard] = {}
    for shard in shards:
        other = named.setdefault(shard.name, shard)
        if other is not shard:
            raise ShardError(
                f"Two shards have the name {shard.name}: {other.url} and {shard.url}.",
                "Names identify shards in every output: rename one, or clean them in two runs.",
            )
    return [named[name] for name in sorted(named)]


def _version(entry: Entry) -> str:
    return next((str(entry[name]) for name in _VERSION_FIELDS if entry.get(name)), "")


def _folder_version(entries: Iterable[Entry]) -> str:
    """A digest of names, sizes and versions: as much as can be known without reading the files."""
    lines = sorted(
        f"{PurePosixPath(entry['name']).name}\0{entry['size']}\0{_version(entry)}"
        for entry in entries
    )
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _url(fs: Any, path: str) -> str:
    """The URL of a path; a local one stays a plain path."""
    is_local = "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)
    return path if is_local else str(fs.unstrip_protocol(path))


def _stem(path: str) -> str:
    """The path without its extension, be it of one part or of two."""
    ending = next((s for s in (*TAR_SUFFIXES, ".parquet") if path.lower().endswith(s)), "")
    return path[: len(path) - len(ending)]


def _without_query(path: str) -> str:
    return path.partition("?")[0] if is_http(path) else path


def _is_hidden(path: str) -> bool:
    return PurePosixPath(path).name.startswith((".", "_"))
