"""Reads the trusted file: which pairs somebody looked at, and what they found.

A CSV, TSV or Parquet file enters; a `TrustedRow` leaves for every row that names a pair, and a
`RowProblem` for every row that does not. `matching` finds the pairs in the shards.

Rows are numbered as a spreadsheet numbers them: the header is row 1, the first pair is row 2, and
a caption with line breaks in it is still one row. Parquet files count the same way. Rows with
nothing in them are passed over, but counted.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from nccleaner.errors import TrustedError

Identifier = Literal["key", "uid", "url", "image"]

# In the order in which they are tried: the first that a row fills names its pair.
IDENTIFIERS: tuple[Identifier, ...] = ("key", "uid", "url", "image")
COLUMNS = (*IDENTIFIERS, "shard", "caption", "label")

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
# Spreadsheets and pandas write 1.0 where a column of labels has gaps.
_LABELS = {"": 1, "1": 1, "1.0": 1, "0": 0, "0.0": 0}
_SHOWN_CHARS = 80
_HOW_TO_NAME = (
    "Put the names of the columns into the first line, separated by commas (.csv) or tabs (.tsv), "
    "and name the pairs in a column key, uid, url or image."
)


@dataclass(frozen=True, slots=True)
class RowProblem:
    """Why a row of the trusted file gives no pair.

    Attributes:
        row: Its number; the header is row 1.
        reason: What is wrong with it, for people.
    """

    row: int
    reason: str


@dataclass(frozen=True, slots=True)
class TrustedRow:
    """A row of the trusted file that names a pair.

    Attributes:
        row: Its number; the header is row 1.
        by: The column that names the pair: the first of `IDENTIFIERS` that the row fills.
        value: What stands there. For `image` an absolute path inside the folder of the file.
        shard: Name of the shard, where the row says.
        caption: The caption, where the row says.
        label: 1 for a matched pair, 0 for a mismatched one.
    """

    row: int
    by: Identifier
    value: str
    shard: str | None
    caption: str | None
    label: int


@dataclass(frozen=True, slots=True)
class TrustedTable:
    """What a trusted file says.

    Attributes:
        path: The file.
        rows: The rows that name a pair.
        problems: The rows that do not.
    """

    path: Path
    rows: tuple[TrustedRow, ...]
    problems: tuple[RowProblem, ...]


def read_trusted(path: str | Path, *, label_required: bool = False) -> TrustedTable:
    """Reads a trusted file.

    Columns, in any order and case: `key`, `uid`, `url` and `image` (a path relative to the file),
    of which the first that a row fills names its pair; `shard`, where that is not enough;
    `caption`, required with `image`; `label`, 1 where empty or absent. Other columns are ignored.
    All values are text: a key keeps its zeros.

    Args:
        path: The file. Its suffix says what it is: `.csv`, `.tsv` or `.parquet`. Text is UTF-8,
            with or without a byte order mark.
        label_required: Whether every row must say 1 or 0: of a random sample, pairs that nobody
            judged yet are no matched ones.

    Raises:
        TrustedError: The file as a whole cannot be used: missing, empty, of another kind or
            encoding, a quote left open, no column that names pairs. What is wrong with one row
            alone is in `problems` instead.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in _DELIMITERS:
        header, records = _read_delimited(path, _DELIMITERS[suffix])
    elif suffix == ".parquet":
        header, records = _read_parquet(path)
    else:
        raise TrustedError(
            f"{path}: expected a name that ends in .csv, .tsv or .parquet, found {suffix!r}.",
            "Save the trusted pairs as one of these.",
        )
    names = _column_names(path, header)
    if label_required and "label" not in names:
        raise TrustedError(
            f"{path}: has no column label.", "Say 1 or 0 in it of every pair of the sample."
        )
    filled = [(row, fields) for row, fields in records if any(map(str.strip, fields))]
    if not filled:
        raise TrustedError(f"{path}: holds no rows.", "Give one row for each trusted pair.")
    parsed = [
        _parse_row(path.parent, names, row, fields, label_required=label_required)
        for row, fields in filled
    ]
    return TrustedTable(
        path,
        tuple(item for item in parsed if isinstance(item, TrustedRow)),
        tuple(item for item in parsed if isinstance(item, RowProblem)),
    )


def shown(value: str) -> str:
    """Quotes a value of the file for a message: in one line, escaped, and not too long."""
    return repr(value if len(value) <= _SHOWN_CHARS else value[:_SHOWN_CHARS] + "…")


def _read_delimited(path: Path, delimiter: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Reads CSV or TSV into its header and its numbered rows."""
    # With strict=True a stray or open quote is an error; by default it swallows the rows after it.
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), delimiter=delimiter, strict=True)
    records: list[list[str]] = []
    line = 1
    try:
        for fields in reader:
            records.append(fields)
            line = reader.line_num + 1
    except csv.Error as error:
        raise TrustedError(
            f"{path}: the row that starts in line {line} cannot be read: {error}.",
            'Close every quote, and write a quote inside a quoted caption twice ("").',
        ) from error
    return records[0], list(enumerate(records[1:], start=2))


def _read_text(path: Path) -> str:
    data = _read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _other_encoding(path, f"byte {data[error.start]:#04x} at {error.start}") from error
    if "\0" in text:
        raise _other_encoding(path, "zero bytes, as UTF-16 has them")
    if not text.strip():
        raise TrustedError(f"{path}: is empty.", "Give one row for each trusted pair.")
    return text


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise TrustedError(f"{path} is not there.", "Check the path.") from error
    except OSError as error:
        raise TrustedError(
            f"{path}: cannot be read: {error.strerror}.", "Give the path of a file."
        ) from error


def _other_encoding(path: Path, found: str) -> TrustedError:
    return TrustedError(
        f"{path}: expected text in UTF-8, found {found}.",
        "Save it in UTF-8; spreadsheets call that 'CSV UTF-8'.",
    )


def _read_parquet(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Reads Parquet into its column names and its numbered rows, all values as text."""
    try:
        table = pq.read_table(pa.BufferReader(_read_bytes(path)))
        known = [i for i, name in enumerate(table.column_names) if _normalised(name) in COLUMNS]
        columns = [_as_text(table.column(i)) for i in known]
    except pa.ArrowException as error:
        raise TrustedError(
            f"{path}: cannot be read as Parquet: {str(error).splitlines()[0]}.",
            "Save it again, with columns of text.",
        ) from error
    rows = [list(fields) for fields in zip(*columns, strict=True)]
    return [table.column_names[i] for i in known], list(enumerate(rows, start=2))


def _as_text(column: pa.ChunkedArray) -> list[str]:
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    text: list[str] = column.cast(pa.string()).fill_null("").to_pylist()
    return text


def _normalised(name: str) -> str:
    return name.strip().lower()


def _column_names(path: Path, header: Sequence[str]) -> list[str]:
    names = [_normalised(name) for name in header]
    if not set(names) & set(IDENTIFIERS):
        found = ", ".join(shown(name) for name in header) or "none of these"
        raise TrustedError(
            f"{path}: expected a column key, uid, url or image, found {found}.", _HOW_TO_NAME
        )
    for name in COLUMNS:
        if names.count(name) > 1:
            raise TrustedError(
                f"{path}: has {names.count(name)} columns called {name}.", "Leave one of them."
            )
    return names


def _parse_row(
    folder: Path, names: Sequence[str], row: int, fields: Sequence[str], *, label_required: bool
) -> TrustedRow | RowProblem:
    """Takes one row apart. What a row of another length than the header means is not guessed."""
    if len(fields) != len(names):
        reason = f"has {len(fields)} fields, the header {len(names)}; is a caption not in quotes?"
        return RowProblem(row, reason)
    values = {name: field.strip() for name, field in zip(names, fields, strict=True)}
    by = next((by for by in IDENTIFIERS if values.get(by)), None)
    if by is None:
        return RowProblem(row, "names no pair: key, uid, url and image are empty or absent")
    if label_required and not values["label"]:
        return RowProblem(row, "has no label")
    label = _LABELS.get(values.get("label", ""))
    if label is None:
        return RowProblem(row, f"label {shown(values['label'])} is neither 1 nor 0")
    value, caption = values[by], values.get("caption") or None
    if by == "image":
        reason = _image_problem(folder, value)
        if not reason and caption is None:
            reason = f"image {shown(value)} comes without a caption"
        if reason:
            return RowProblem(row, reason)
        value = str((folder / value).resolve())
    return TrustedRow(row, by, value, values.get("shard") or None, caption, label)


def _image_problem(folder: Path, value: str) -> str:
    """Says why `value` names no image beside the trusted file; empty where it names one."""
    # The file may come from somebody else, who must not choose what else on the disk is read.
    try:
        path = (folder / value).resolve()
        if not path.is_relative_to(folder.resolve()):
            return f"image {shown(value)} lies outside the folder of the trusted file"
        return "" if path.is_file() else f"image {shown(value)} is not there"
    except (OSError, ValueError) as error:
        return f"image {shown(value)} cannot be opened: {error}"
