"""A list of URLs and captions in, what img2dataset must know about it out.

CSV, TSV, Parquet, JSON and JSON lines, also gzipped where they are text; one file, or a folder of
files of one kind. Which columns hold URLs and captions is found by their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from nccleaner.errors import InputError

_URL_NAMES = ("url", "image_url", "img_url")
_CAPTION_NAMES = ("caption", "text", "alt_text", "alt", "title", "description")
_TEXT_FORMATS = ("csv", "tsv", "json", "jsonl")
_FORMATS = ("parquet", *_TEXT_FORMATS, *(f"{name}.gz" for name in _TEXT_FORMATS))
# What urllib takes for a file, with all that it strips before it looks.
_FILE_URL = r"(?i)^[\s<]*(url:)?\s*file:"
# What img2dataset writes itself.
_RESERVED = {
    *("key", "caption", "url", "status", "error_message", "exif", "md5", "sha256", "sha512"),
    *("width", "height", "original_width", "original_height"),
}


@dataclass(frozen=True, slots=True)
class UrlList:
    """A list to download.

    Attributes:
        path: The file or the folder.
        format: Its kind, as img2dataset calls it.
        rows: Pairs in each file.
        url: The column of URLs.
        caption: The column of captions.
        others: Columns that are passed on, such as `uid`.
    """

    path: Path
    format: str
    rows: Sequence[int]
    url: str
    caption: str
    others: Sequence[str]


def read_url_list(
    path: Path, *, url_column: str | None = None, caption_column: str | None = None
) -> UrlList:
    """Looks through a list.

    Args:
        path: A file, or a folder of files of one kind.
        url_column: Where the URLs are; None: found by name.
        caption_column: Where the captions are; None: found by name.

    Raises:
        InputError: There is no such list, it cannot be read, a column is not found, or a URL names
            a file of this machine.
    """
    files, kind = _find_files(path)
    schemas, rows = zip(*(_look_at(file, kind) for file in files), strict=True)
    names = schemas[0].names
    if any(schema.names != names for schema in schemas):
        raise InputError(f"The files in {path} have different columns.", "Download each by itself.")
    url = _choose(path, names, url_column, _URL_NAMES, "URLs", "--url-column")
    caption = _choose(path, names, caption_column, _CAPTION_NAMES, "captions", "--caption-column")
    for chosen, own in ((url, "url"), (caption, "caption")):
        if chosen != own and own in names:
            raise InputError(
                f"{path} has a column {own!r} beside {chosen!r}; img2dataset takes one of them.",
                f"Remove or rename the column {own!r}.",
            )
    for file in files:
        _refuse_files(file, kind, url)
    others = [
        field.name
        for field in schemas[0]
        if field.name not in {url, caption, *_RESERVED} and _is_plain(field.type)
    ]
    return UrlList(path, kind, rows, url, caption, others)


def _find_files(path: Path) -> tuple[list[Path], str]:
    found = sorted(path.iterdir()) if path.is_dir() else [path]
    kinds = {file: _format_of(file) for file in found}
    files = [file for file, kind in kinds.items() if kind]
    if not path.exists():
        raise InputError(f"{path} does not exist.", "Name a list of URLs and captions.")
    if len({kinds[file] for file in files}) != 1:
        raise InputError(
            f"{path} is no list of URLs and captions, or holds lists of several kinds.",
            f"Name a file, or a folder of files of one kind: .{', .'.join(_FORMATS)}",
        )
    return files, kinds[files[0]]


def _format_of(file: Path) -> str:
    return next((name for name in _FORMATS if file.name.lower().endswith(f".{name}")), "")


def _look_at(file: Path, kind: str) -> tuple[pa.Schema, int]:
    """Reads what img2dataset will read: columns with their types, and the number of rows."""
    with _open(file, kind) as (schema, batches):
        if kind == "parquet":
            return schema, pq.read_metadata(file).num_rows
        return schema, sum(batch.num_rows for batch in batches)


def _refuse_files(file: Path, kind: str, column: str) -> None:
    """Refuses URLs that urllib, which img2dataset asks, would read from this machine."""
    with _open(file, kind, [column]) as (_, batches):
        for batch in batches:
            urls = batch[column].cast(pa.string())
            local = urls.filter(pc.match_substring_regex(urls, _FILE_URL).fill_null(False))
            if len(local):
                raise InputError(
                    f"{file} names a file of this machine, {local[0].as_py()!r}, where it should "
                    "name images on the web.",
                    "Remove such rows: who wrote the list would choose what is read here.",
                )


@contextmanager
def _open(
    file: Path, kind: str, columns: list[str] | None = None
) -> Iterator[tuple[pa.Schema, Iterable[pa.RecordBatch]]]:
    """Opens a file: all of its columns or some, batch by batch where its kind allows."""
    try:
        if kind == "parquet":
            with pq.ParquetFile(file) as table:
                yield table.schema_arrow, table.iter_batches(columns=columns)
        elif kind.startswith("json"):
            found = _read_json(file, kind)
            yield found.schema, found.to_batches()
        else:
            delimiter = "," if kind.startswith("csv") else "\t"
            with pa_csv.open_csv(
                file,
                parse_options=pa_csv.ParseOptions(delimiter=delimiter),
                convert_options=pa_csv.ConvertOptions(include_columns=columns),
            ) as batches:
                yield batches.schema, batches
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(
            f"{file} cannot be read as {kind}: {error}", "Check the file, or name another."
        ) from error


def _read_json(file: Path, kind: str) -> pa.Table:
    if kind.startswith("jsonl"):
        return pa_json.read_json(file)
    import pandas as pd

    return pa.Table.from_pandas(pd.read_json(file), preserve_index=False)


def _choose(
    path: Path,
    names: Sequence[str],
    told: str | None,
    usual: Sequence[str],
    what: str,
    option: str,
) -> str:
    if told is not None and told in names:
        return told
    if told is None:
        by_lower = {name.lower(): name for name in reversed(names)}
        for name in usual:
            if name in by_lower:
                return by_lower[name]
    expected = f"{told!r}" if told is not None else " or ".join(usual)
    raise InputError(
        f"{path} has no column {expected} for the {what}, only: {', '.join(names)}.",
        f"Name it with {option}; the first line of a CSV or TSV must name the columns.",
    )


def _is_plain(kind: pa.DataType) -> bool:
    """Whether img2dataset can write values of this type into its JSON."""
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
    )
