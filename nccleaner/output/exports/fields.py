"""The columns of all manifests as one set of fields, the same for every exported sample.

In: manifests, whose columns differ where shards do. Out: names and types that hold for all of them
and that JSON can express, and the rows of each manifest in these.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nccleaner.output.manifests import free_name, names_in

_BATCH_ROWS = 1024


class Fields:
    """What every sample of an export has, in the order in which the manifests name it.

    A column that a manifest lacks is null. Numbers of several types get one that holds them all.
    What JSON has no words for becomes text, and so does a column of types that do not go together.
    The columns of nccleaner have one name everywhere: where any shard has a `status` of its own,
    nccleaner's is `nccleaner_status` for all.

    Args:
        paths: The manifests.

    Raises:
        RunError: One was not written by nccleaner.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        schemas = {path: pq.read_schema(path) for path in paths}
        written = {path: names_in(path, schema) for path, schema in schemas.items()}
        own = {
            name
            for path, schema in schemas.items()
            for name in set(schema.names) - set(written[path].values())
        }
        self._names = {
            path: {there: free_name(name, own) for name, there in names.items()}
            for path, names in written.items()
        }
        kinds: dict[str, pa.DataType] = {}
        for path, schema in schemas.items():
            for field in schema:
                name, kind = self._names[path].get(field.name, field.name), _kind(field.type)
                kinds[name] = _common(kinds.get(name, kind), kind)
        self._key = free_name("key", own)
        self._schema = pa.schema(list(kinds.items()))

    @property
    def schema(self) -> pa.Schema:
        """Names and types."""
        return self._schema

    def tables(self, path: Path) -> Iterator[pa.Table]:
        """Reads a manifest, some rows at a time, as tables of `schema`."""
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH_ROWS):
                table = pa.Table.from_batches([batch])
                names = [self._names[path].get(name, name) for name in table.column_names]
                table = table.rename_columns(names)
                columns = [
                    _column(table[field.name], field.type)
                    if field.name in names
                    else pa.nulls(len(table), field.type)
                    for field in self._schema
                ]
                yield pa.table(columns, schema=self._schema)

    def rows(self, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        """Reads a manifest: the key of each kept pair, and all its fields, ready for JSON."""
        for table in self.tables(path):
            for row in table.to_pylist():
                yield str(row[self._key]), {name: _finite(value) for name, value in row.items()}


def _kind(kind: pa.DataType) -> pa.DataType:
    """The type that a column's values have in JSON."""
    if pa.types.is_dictionary(kind):
        return _kind(kind.value_type)
    if pa.types.is_float16(kind):
        return pa.float32()
    return kind if _is_plain(kind) else pa.string()


def _is_plain(kind: pa.DataType) -> bool:
    """Whether JSON can hold values of this type."""
    if pa.types.is_list(kind):
        return _is_plain(kind.value_type)
    if pa.types.is_struct(kind):
        return all(_is_plain(field.type) for field in kind)
    return bool(
        pa.types.is_null(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_float32(kind)
        or pa.types.is_float64(kind)
        or pa.types.is_string(kind)
    )


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """A type that holds the values of both."""
    if one.equals(other):
        return one
    schemas = [pa.schema([("", kind)]) for kind in (one, other)]
    try:
        return _kind(pa.unify_schemas(schemas, promote_options="permissive").field(0).type)
    except pa.ArrowException:
        return pa.string()


def _column(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if column.type.equals(kind):
        return column
    if pa.types.is_string(kind):
        return pa.chunked_array([pa.array([_text(value) for value in column.to_pylist()], kind)])
    return column.cast(kind)


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return json.dumps(value, default=str)


def _finite(value: Any) -> Any:
    """Replaces numbers that are not finite, for which JSON has no word, by null."""
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
