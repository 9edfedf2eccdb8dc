"""Writes a shard again with other captions; all else keeps its bytes.

A shard and captions by key enter; a shard of the same kind, with its sidecar and its
`_stats.json`, leaves. Nothing in what is written depends on when, where or by whom it was written.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from nccleaner.data.members import NAME_ERRORS, is_archive_note, readable_name, split_name
from nccleaner.data.metadata import CAPTION_NAMES, texts
from nccleaner.data.storage import (
    is_http,
    list_folder,
    locate,
    open_binary,
    read_bytes,
    storage_errors,
)
from nccleaner.data.writing import write_tar
from nccleaner.files import PARQUET_OPTIONS, replace_file, replace_folder
from nccleaner.records import Shard

_BATCH_ROWS = 256  # rows of a Parquet shard, images included, held in memory at a time


def file_name(url: str) -> str:
    """The name of the file or folder that `url` is, without its path."""
    return PurePosixPath(url.partition("?")[0] if is_http(url) else url).name


def rewrite_shard(shard: Shard, out: Path, *, captions: Mapping[str, str]) -> None:
    """Writes a whole shard into the folder `out` under the names that it has.

    What holds the samples appears last, so that it says that the shard is complete.

    Args:
        shard: What to read; it must be undamaged.
        out: Where to write.
        captions: The new captions by key. The others keep theirs; where a key repeats, so do all
            but the first sample that has it.
    """
    if shard.stats_url is not None:
        with replace_file(out / file_name(shard.stats_url)) as temporary:
            temporary.write_bytes(read_bytes(shard.stats_url))
    if shard.sidecar_url is not None:
        with replace_file(out / file_name(shard.sidecar_url)) as temporary:
            _rewrite_parquet(shard.sidecar_url, temporary, dict(captions))
    place = out / file_name(shard.url)
    if shard.kind == "files":
        with replace_folder(place) as temporary:
            for name, data in _replace_captions(_folder_files(shard.url), dict(captions)):
                (temporary / name).write_bytes(data)
        return
    with replace_file(place) as temporary:
        if shard.kind == "parquet":
            _rewrite_parquet(shard.url, temporary, dict(captions))
        else:
            write_tar(temporary, _replace_captions(_tar_files(shard.url), dict(captions)))


def _replace_captions(
    files: Iterator[tuple[str, bytes]], captions: dict[str, str]
) -> Iterator[tuple[str, bytes]]:
    """Puts new captions into the `txt` and `json` of samples; uses up `captions`."""
    current, suffixes = "", set[str]()
    caption: str | None = None
    for name, data in files:
        key, suffix = _name_parts(name)
        if key != current or suffix in suffixes:  # another sample, as `group_members` has it
            current, suffixes = key, set()
            caption = captions.pop(key, None)
        suffixes.add(suffix)
        if caption is None or suffix not in ("txt", "json"):
            yield name, data
        elif suffix == "txt":
            yield name, caption.encode("utf-8")
        else:
            yield name, _replace_in_json(data, caption)


def _name_parts(name: str) -> tuple[str, str]:
    """Key and suffix as reading has them, whatever bytes are in the name."""
    return split_name(readable_name(name)) or (name, "")


def _replace_in_json(data: bytes, caption: str) -> bytes:
    """Replaces the captions in a JSON object; what is none is left alone."""
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        return data
    if not isinstance(fields, dict) or not fields.keys() & set(CAPTION_NAMES):
        return data
    fields |= {name: caption for name in CAPTION_NAMES if name in fields}
    return json.dumps(fields, indent=4).encode()  # as img2dataset writes it


def _folder_files(url: str) -> Iterator[tuple[str, bytes]]:
    """Yields the files of a folder in the order in which `FolderMembers` takes them."""
    fs, path = locate(url)
    files = [entry["name"] for entry in list_folder(fs, path) if entry["type"] != "directory"]
    for file in sorted(files, key=lambda file: _name_parts(file_name(file))):
        with storage_errors(file):
            data = fs.cat_file(file)
        yield file_name(file), data


def _tar_files(url: str) -> Iterator[tuple[str, bytes]]:
    """Yields the samples' members of a tar in their order, one in memory at a time."""
    # The encoding as `TarMembers` has it: both must find the same keys.
    with (
        open_binary(url) as source,
        tarfile.open(fileobj=source, mode="r|*", encoding="utf-8", errors=NAME_ERRORS) as tar,
    ):
        for header in tar:
            member = tar.extractfile(header) if header.isreg() else None
            if member is not None and not is_archive_note(header.name):
                yield header.name, member.read()


def _rewrite_parquet(url: str, path: Path, captions: dict[str, str]) -> None:
    """Copies Parquet batch by batch with new captions by `key`; uses up `captions`."""
    with open_binary(url) as source:
        file = pq.ParquetFile(source)
        with pq.ParquetWriter(path, file.schema_arrow, **PARQUET_OPTIONS) as writer:
            first_row = 0
            for batch in file.iter_batches(_BATCH_ROWS, use_threads=False):
                table = pa.Table.from_batches([batch])
                writer.write_table(_replace_in_table(table, captions, first_row))
                first_row += len(table)


def _replace_in_table(table: pa.Table, captions: dict[str, str], first_row: int) -> pa.Table:
    keys = texts(table["key"]) if "key" in table.column_names else [None] * len(table)
    # A row without a key is called by its number, as `ParquetSamples` does.
    new = [captions.pop(key or str(first_row + row), None) for row, key in enumerate(keys)]
    for place, name in enumerate(table.column_names):
        if name in CAPTION_NAMES:
            both = zip(new, texts(table[name]), strict=True)
            column = [own if caption is None else caption for caption, own in both]
            table = table.set_column(place, table.field(name), pa.array(column, table[name].type))
    return table
