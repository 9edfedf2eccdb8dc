"""Things in, `.npy` files with rows for the distinct ones out; none is held in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO, Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from nccleaner.errors import InputError

T = TypeVar("T")

# Waits for features, [b, width], that an encoder may still be at, and returns them.
Started: TypeAlias = Callable[[], npt.NDArray[np.float32]]


class GrowingArray:
    """An array in a `.npy` file that grows by rows.

    Args:
        file: Where the array goes; empty and seekable.
        dtype: Of the array, little-endian.
        row: Shape of a row.

    Attributes:
        rows: How many there are.
    """

    def __init__(self, file: BinaryIO, *, dtype: str, row: tuple[int, ...]) -> None:
        self.rows = 0
        self._file = file
        self._dtype = np.dtype(dtype)
        self._row = row
        self._write_header()

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Writes rows, [n, ...], of the array's own type."""
        assert rows.shape[1:] == self._row
        assert rows.dtype == self._dtype
        self._file.write(rows.tobytes())
        self.rows += len(rows)

    def finish(self) -> int:
        """Writes down how many rows there are, and returns it."""
        self._file.seek(0)
        self._write_header()
        return self.rows

    def _write_header(self) -> None:
        # numpy leaves room for the number of rows to grow, so the header's length never changes.
        shape = (self.rows, *self._row)
        descr = np.lib.format.dtype_to_descr(self._dtype)
        header = {"descr": descr, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)


class DistinctFeatures(Generic[T]):
    """Encodes each distinct thing once, and appends its features to a `.npy` file.

    A batch's features are waited for when the next batch is started: what gathers batches and what
    encodes them work side by side where the encoder has a device of its own.

    Args:
        file: Where the array goes; empty and seekable.
        start: Starts to turn things into features [b, width].
        width: Length of a feature.
        encoder: Whose features they are, for people.
        batch_size: Things that are encoded at a time.

    Attributes:
        row_of: The row of each thing that was added, by name.
    """

    def __init__(
        self,
        file: BinaryIO,
        *,
        start: Callable[[list[T]], Started],
        width: int,
        encoder: str,
        batch_size: int,
    ) -> None:
        self.row_of: dict[str, int] = {}
        self._features = GrowingArray(file, dtype="<f2", row=(width,))
        self._start = start
        self._encoder = encoder
        self._batch_size = batch_size
        self._waiting: list[T] = []
        self._started: tuple[int, Started] | None = None

    def add(self, name: str, thing: T) -> None:
        """Has `thing` encoded unless its `name` is known."""
        if name in self.row_of:
            return
        self.row_of[name] = len(self.row_of)
        self._waiting.append(thing)
        if len(self._waiting) == self._batch_size:
            self._flush()

    def finish(self) -> int:
        """Encodes what is waiting, and returns the number of rows of the array."""
        self._flush()  # starts the last batch
        self._flush()  # writes it
        return self._features.finish()

    def _flush(self) -> None:
        """Starts the batch that waits, if there is one, and writes what was started before."""
        before = self._started
        self._started = None
        if self._waiting:
            self._started = len(self._waiting), self._start(self._waiting)
            self._waiting = []
        if before is not None:
            self._write(*before)

    def _write(self, count: int, started: Started) -> None:
        encoded = started()  # [b, width]
        assert len(encoded) == count
        with np.errstate(over="ignore"):
            features = encoded.astype("<f2")
        if not np.isfinite(features).all():
            raise InputError(
                f"The encoder {self._encoder} gives features that are no finite float16 "
                f"numbers: the largest is {np.abs(encoded).max()}.",
                "Its weights are damaged or not of this architecture: check where they are from.",
            )
        self._features.append(features)
