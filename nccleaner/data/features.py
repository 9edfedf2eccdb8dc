"""The feature cache: what the frozen encoders make of a shard, computed once.

    features/<shard>/
      samples.parquet    key, status, detail, caption, uid, url, image_sha256, image_row, text_row
      metadata.parquet   the shard's own columns, in the same order
      image.npy          float16 [distinct images, width]
      text.npy           float16 [distinct captions, width]; absent without a text encoder
      target.npy         uint8 [distinct images, 64, 64, 3], what reconstruction aims at; absent
                         unless it was wanted
      part.json          what the part was made from, and its `ShardReport`

One row a sample, in the order of the shard. Images with the same content and captions with the same
text are encoded once: `image_row` and `text_row` say where; they are -1 where there is nothing.
A part appears under its real name when it is whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nccleaner.data.images import Pixels
from nccleaner.data.metadata import first_line
from nccleaner.errors import RunError
from nccleaner.files import read_parquet
from nccleaner.records import Limits, Shard, ShardReport

Features: TypeAlias = npt.NDArray[np.float16]

FeatureKind: TypeAlias = Literal["image", "text"]
Rows: TypeAlias = slice | npt.NDArray[np.integer[Any]]

# Changes with the layout of a part, so that parts of another layout are made anew.
_LAYOUT = 1

TARGET_PX = 64


@dataclass(frozen=True)
class FeaturePart:
    """The features of one shard, read when they are asked for; arrays are memory-mapped.

    Attributes:
        folder: Where it is.
        report: What reading the shard found.
    """

    folder: Path
    report: ShardReport

    def unread(self) -> FeaturePart:
        """Returns the part with nothing read of it: what is read then goes when that goes."""
        return replace(self)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        """Goes to another process without what was read of it."""
        return FeaturePart, (self.folder.absolute(), self.report)

    @cached_property
    def samples(self) -> pa.Table:
        """One row a sample, rejects included."""
        return self.read_samples()

    def read_samples(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Reads `samples`, or some of its columns, without keeping them."""
        with self._intact():
            return read_parquet(self.folder / "samples.parquet", columns)

    @cached_property
    def metadata(self) -> pa.Table:
        """The shard's own columns; the same rows as `samples`."""
        with self._intact():
            return read_parquet(self.folder / "metadata.parquet")

    @cached_property
    def image(self) -> Features:
        """Features of the distinct images: [images, width]."""
        with self._intact():
            return _open_features(self.folder / "image.npy")

    @cached_property
    def text(self) -> Features | None:
        """Features of the distinct captions: [captions, width]; None without a text encoder."""
        path = self.folder / "text.npy"
        with self._intact():
            return _open_features(path) if path.exists() else None

    def take(self, kind: FeatureKind, rows: Rows = slice(None)) -> Features:
        """Copies features into memory.

        Args:
            kind: Of images, or of captions where they come as features.
            rows: Which of them; all by default.

        Returns:
            Features [rows, width], finite.

        Raises:
            RunError: Some are not finite, so that the file was changed since it was written.
        """
        stored = self.image if kind == "image" else self.text
        assert stored is not None, "captions that are no tokens have features"
        taken = np.array(stored[rows])
        if not np.isfinite(taken).all():
            raise RunError(
                f"{self.folder / kind}.npy is damaged: it holds values that are not finite.",
                f"Remove {self.folder}: it is made anew.",
            )
        return taken

    @cached_property
    def target(self) -> Pixels | None:
        """The distinct images as small squares: [images, 64, 64, 3]; None where not wanted."""
        path = self.folder / "target.npy"
        with self._intact():
            return np.load(path, mmap_mode="r") if path.exists() else None

    @contextmanager
    def _intact(self) -> Iterator[None]:
        """Says of a part that was whole when it was opened that it is so no more."""
        try:
            yield
        except (OSError, EOFError, ValueError, pa.ArrowException) as error:
            raise RunError(
                f"The features in {self.folder} are gone or damaged: {first_line(error)}.",
                "Run the same command again: they are made anew.",
            ) from error


def part_fingerprint(
    shard: Shard,
    image_encoder_fingerprint: str,
    text_encoder_fingerprint: str | None,
    limits: Limits,
) -> str:
    """Digests all that the content of a part depends on: the shard's version, encoders, limits.

    Targets are no part of it: a part that has them serves where none are wanted.
    """
    made_from = {
        "layout": _LAYOUT,
        "shard": asdict(shard),
        "image_encoder": image_encoder_fingerprint,
        "text_encoder": text_encoder_fingerprint,
        "limits": asdict(limits),
    }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def read_part(folder: Path, fingerprint: str, *, with_targets: bool = False) -> FeaturePart | None:
    """Opens a part if it is there, whole, and made from what `fingerprint` says; else None.

    Args:
        folder: `features/<shard>`.
        fingerprint: As `part_fingerprint` gives it.
        with_targets: Whether a part without targets is as good as none.
    """
    try:
        description = json.loads((folder / "part.json").read_text(encoding="utf-8"))
        if description["fingerprint"] != fingerprint:
            return None
        part = FeaturePart(folder, ShardReport(**description["report"]))
        lengths = {"image": len(part.image)}
        if part.text is not None:
            lengths["text"] = len(part.text)
        if part.target is not None:
            lengths["target"] = len(part.target)
        rows = [pq.read_metadata(folder / f"{name}.parquet") for name in ("samples", "metadata")]
        is_whole = lengths == description["lengths"] and all(
            table.num_rows == part.report.samples for table in rows
        )
    except (OSError, RunError, ValueError, LookupError, TypeError, pa.ArrowException):
        return None
    return part.unread() if is_whole and (part.target is not None or not with_targets) else None


def _open_features(path: Path) -> Features:
    features: Features = np.load(path, mmap_mode="r")
    return features
