"""Samples of a Parquet shard: img2dataset's `parquet` output, with image bytes in a column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq

from nccleaner.data.captions import Fault, caption_fault, image_fault, missing_detail
from nccleaner.data.members import IMAGE_SUFFIXES
from nccleaner.data.metadata import DAMAGED_PARQUET, caption_texts, first_line, texts, with_keys
from nccleaner.data.storage import BUFFER_BYTES, open_binary
from nccleaner.records import MISSING_IMAGE, OK, TRUNCATED_SHARD, Limits, Sample, Shard

# Images held in memory at a time.
_BATCH_ROWS = 16


class ParquetSamples:
    """Iterates the rows of a Parquet shard, row group by row group.

    A row group that is damaged loses its images, or where its other columns are damaged too its
    rows; the row groups after it are read.

    Attributes:
        problems: What is wrong with the shard; complete after iteration.
    """

    def __init__(self, shard: Shard, *, limits: Limits) -> None:
        self.problems: list[str] = []
        self._shard = shard
        self._limits = limits
        self._tables: list[pa.Table] = []
        self._is_cut = False

    def __iter__(self) -> Iterator[Sample]:
        with open_binary(self._shard.url) as source:
            try:
                file = pq.ParquetFile(source, buffer_size=BUFFER_BYTES, pre_buffer=False)
                column = image_column(file.schema_arrow)
            except DAMAGED_PARQUET as error:
                self._is_cut = True
                self.problems.append(
                    f"the file is cut, damaged or not Parquet ({first_line(error)})"
                )
                return
            if column is None:
                self.problems.append(
                    f"it has no column of image bytes named {', '.join(IMAGE_SUFFIXES)}"
                )
                return
            first_row = 0
            for index in range(file.num_row_groups):
                yield from self._row_group(file, index, column, first_row)
                first_row += file.metadata.row_group(index).num_rows
            if first_row != file.metadata.num_rows:
                self._is_cut = True
                self.problems.append(
                    f"its row groups have {first_row} rows, its footer counts "
                    f"{file.metadata.num_rows}"
                )

    def expected_images(self) -> tuple[int | None, str]:
        """Nothing beside the rows tells how many images there are."""
        return None, ""

    def is_cut(self) -> bool:
        """Whether samples may be lost that nothing tells of."""
        return self._is_cut

    def metadata(self, keys: Sequence[str]) -> pa.Table:
        """Every column but the images, one row for each sample yielded, whose keys are `keys`."""
        return with_keys(pa.concat_tables(self._tables) if self._tables else pa.table({}), keys)

    def _row_group(
        self, file: pq.ParquetFile, index: int, column: str, first_row: int
    ) -> Iterator[Sample]:
        names = [name for name in file.schema_arrow.names if name != column]
        count = file.metadata.row_group(index).num_rows
        damage = ""
        try:
            table = file.read_row_group(index, columns=names, use_threads=False)
            if names and len(table) != count:
                damage = f"it has {len(table)} rows"
        except DAMAGED_PARQUET as error:
            damage = first_line(error)
        if damage:
            self._is_cut = True
            self.problems.append(f"row group {index}, {count} rows, is lost ({damage})")
            return
        self._tables.append(table)
        rows = _Rows(table, first_row)
        row = 0
        try:
            for image in islice(_images(file, index, column), max(count, 0)):
                yield self._sample(rows, row, image)
                row += 1
        except DAMAGED_PARQUET as error:
            damage = first_line(error)
        if row < count:
            damage = damage or "no more images"
            self.problems.append(f"row group {index} is damaged from row {row} on ({damage})")
            if not names:  # nothing but the footer, which may be forged, tells of more rows
                self._is_cut = True
                return
            for lost in range(row, count):
                yield self._sample(rows, lost, None, lost=(TRUNCATED_SHARD, damage))

    def _sample(
        self, rows: _Rows, row: int, image: bytes | None, *, lost: Fault | None = None
    ) -> Sample:
        caption = rows.caption(row)
        if image is None:
            missing = missing_detail(*rows.outcome(row))
            fault: Fault | None = lost or (MISSING_IMAGE, missing)
        else:
            too_large = image_fault(len(image), self._limits)
            fault = too_large or caption_fault(caption, self._limits)
        status, detail = fault or (OK, "")
        return Sample(
            shard=self._shard.name,
            key=rows.key(row),
            image=image,
            caption=caption,
            status=status,
            detail=detail,
        )


class _Rows:
    """What samples need of a row group's columns, as Python values; nothing without a column."""

    def __init__(self, table: pa.Table, first_row: int) -> None:
        def column(name: str) -> list[str | None]:
            return texts(table[name]) if name in table.column_names else []

        self._first_row = first_row
        self._keys = column("key")
        self._captions = caption_texts(table) if table.num_columns else []
        self._statuses = column("status")
        self._errors = column("error_message")

    def key(self, row: int) -> str:
        """Its key; a file without keys gets its row numbers."""
        return _entry(self._keys, row) or str(self._first_row + row)

    def caption(self, row: int) -> str | None:
        """Its caption."""
        return _entry(self._captions, row)

    def outcome(self, row: int) -> tuple[str | None, str | None]:
        """What img2dataset says of its download: `status` and `error_message`."""
        return _entry(self._statuses, row), _entry(self._errors, row)


def _entry(column: Sequence[str | None], row: int) -> str | None:
    return column[row] if column else None


def _images(file: pq.ParquetFile, index: int, column: str) -> Iterator[bytes | None]:
    """Yields the images of a row group, some in memory at a time."""
    for batch in file.iter_batches(
        _BATCH_ROWS, row_groups=[index], columns=[column], use_threads=False
    ):
        for image in batch.column(0):
            yield image.as_py()


def image_column(schema: pa.Schema) -> str | None:
    """The column with image bytes, named after its format as img2dataset does; None if none."""
    for name in IMAGE_SUFFIXES:
        if name in schema.names:
            kind = schema.field(name).type
            if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                return name
    return None
