"""The columns that a shard brings along: from its Parquet sidecar, or from the JSON of its samples.

Enters a sidecar or the JSON fields of each sample; leaves one Arrow table with one row a sample,
and what the sidecar and `_stats.json` say about samples that are not there.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nccleaner.data.storage import read_bytes

# Where a caption is looked for, in Parquet columns and JSON fields.
CAPTION_NAMES = ("caption", "text")
# What pyarrow raises for damage inside a file; the last for names of columns.
DAMAGED_PARQUET = (pa.ArrowException, OSError, UnicodeDecodeError)
# A shard whose samples each invent fields of their own must not fill the memory with nulls.
MAX_JSON_COLUMNS = 512

_SCALARS = (str, int, float, bool)


@dataclass(frozen=True, slots=True)
class SidecarRow:
    """What img2dataset noted about one download; `status` is `success` where it worked."""

    key: str
    caption: str | None
    status: str | None
    error_message: str | None


class Sidecar:
    """img2dataset's Parquet beside a tar or folder, looked up by key.

    Attributes:
        problems: Rows that cannot be used.
    """

    def __init__(self, table: pa.Table) -> None:
        self.problems: list[str] = []
        self._table = table
        self._row_of: dict[str, int] = {}
        for row, key in enumerate(texts(table["key"])):
            if key is not None:
                self._row_of.setdefault(key, row)
        if lost := len(table) - len(self._row_of):
            self.problems.append(
                f"{lost} rows of the sidecar have no key or one that came before, and were ignored"
            )

    @cached_property
    def _captions(self) -> list[str | None]:
        return caption_texts(self._table)

    @cached_property
    def _statuses(self) -> list[str | None]:
        return self._texts_or_nulls("status")

    def caption(self, key: str) -> str | None:
        """The caption in the row of `key`; None where there is none."""
        row = self._row_of.get(key)
        return None if row is None else self._captions[row]

    def images(self) -> int:
        """How many images the sidecar says there are."""
        if "status" not in self._table.column_names:
            return len(self._row_of)
        return sum(self._statuses[row] == "success" for row in self._row_of.values())

    def rows_without(self, seen: Collection[str]) -> Iterator[SidecarRow]:
        """Yields the rows whose key is not in `seen`, in the sidecar's order."""
        errors = self._texts_or_nulls("error_message")
        for key, row in self._row_of.items():
            if key not in seen:
                yield SidecarRow(key, self._captions[row], self._statuses[row], errors[row])

    def join(self, keys: Sequence[str]) -> pa.Table:
        """Returns one row for each of `keys`, types unchanged; nulls but `key` where none fits."""
        rows = pa.array([self._row_of.get(key) for key in keys], pa.int64())
        return with_keys(self._table.take(rows), keys)

    def _texts_or_nulls(self, name: str) -> list[str | None]:
        if name in self._table.column_names:
            return texts(self._table[name])
        return [None] * len(self._table)


def read_sidecar(url: str) -> tuple[Sidecar | None, str]:
    """Reads a sidecar: it and no problem, or None and the problem that makes it useless.

    Raises:
        ShardError: If the storage fails.
    """
    data = read_bytes(url)
    try:
        table = pq.read_table(io.BytesIO(data), use_threads=False)
        has_keys = "key" in table.column_names
    except DAMAGED_PARQUET as error:
        return None, f"its sidecar {url} is damaged ({first_line(error)}) and was not used"
    if not has_keys:
        return None, f"its sidecar {url} has no column `key` and was not used"
    return Sidecar(table), ""


def read_successes(url: str) -> tuple[int | None, str]:
    """Reads from img2dataset's `_stats.json` how many images it wrote: the count, or a problem.

    Raises:
        ShardError: If the storage fails.
    """
    data = read_bytes(url)
    try:
        return int(json.loads(data)["successes"]), ""
    except (LookupError, TypeError, ValueError, OverflowError, RecursionError):
        return None, f"its {url} is not the statistics of img2dataset and was not used"


class JsonColumns:
    """Gathers the JSON fields of sample after sample into columns."""

    def __init__(self) -> None:
        self.skipped_columns = False
        self._rows = 0
        self._columns: dict[str, dict[int, Any]] = {"caption": {}}

    def add(self, caption: str | None, fields: Mapping[str, object]) -> None:
        """Adds the next sample."""
        row, self._rows = self._rows, self._rows + 1
        for name, value in {"caption": caption, **fields}.items():
            if name not in self._columns and len(self._columns) >= MAX_JSON_COLUMNS:
                self.skipped_columns = True
            elif value is not None:
                self._columns.setdefault(name, {})[row] = value

    def table(self, keys: Sequence[str]) -> pa.Table:
        """Returns one row a sample: `key`, and the fields; `caption` where they have none."""
        columns = {
            # Half a surrogate pair is no name that Parquet can write.
            name.encode("utf-8", "backslashreplace").decode(): _column(
                [found.get(row) for row in range(self._rows)]
            )
            for name, found in self._columns.items()
        }
        return with_keys(pa.table(columns), keys)


def _column(values: Sequence[Any]) -> pa.Array:
    """Gives scalars or lists of scalars their own type; anything else becomes JSON text.

    Objects become text too: as structs they would get the fields of each other, filled with nulls.
    """
    flat = (item for v in values for item in (v if isinstance(v, list) else (v,)))
    if all(item is None or isinstance(item, _SCALARS) for item in flat):
        try:
            array = _array(values)
        except (pa.ArrowException, OverflowError):
            pass  # types that change, or a number beyond 64 bits
        else:
            if not pa.types.is_null(array.type):
                return array
    return pa.array([None if v is None else json.dumps(v) for v in values], pa.string())


def _array(values: Sequence[Any]) -> pa.Array:
    """Makes an array; halves of surrogate pairs, which no UTF-8 has, become `?`."""
    try:
        return pa.array(values)
    except UnicodeError:
        return pa.array([_whole(value) for value in values])


def _whole(value: Any) -> Any:
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def with_keys(table: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Sets the column `key`, in its place or first, to `keys`."""
    column = pa.array(keys, pa.string())
    place = table.schema.get_field_index("key")
    if place >= 0:
        return table.set_column(place, "key", column)
    return table.add_column(0, "key", column) if table.num_columns else pa.table({"key": column})


def texts(column: pa.ChunkedArray) -> list[str | None]:
    """Reads a column as text, or as nulls where its type has no text.

    Bytes that are no UTF-8 become U+FFFD instead of an error.
    """
    if not (pa.types.is_string(column.type) or pa.types.is_binary(column.type)):
        try:
            column = pc.cast(column, pa.string())
        except pa.ArrowException:
            return [None] * len(column)
    values = pc.cast(column, pa.binary()).to_pylist()
    return [None if value is None else value.decode("utf-8", "replace") for value in values]


def caption_texts(table: pa.Table) -> list[str | None]:
    """Reads the captions of a table: the first of `CAPTION_NAMES` that it has, else nulls."""
    for name in CAPTION_NAMES:
        if name in table.column_names:
            return texts(table[name])
    return [None] * len(table)


def first_line(error: Exception) -> str:
    """The first line of what an error says, for use within a sentence."""
    return str(error).strip().partition("\n")[0].rstrip(".")
