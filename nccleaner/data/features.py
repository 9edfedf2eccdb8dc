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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nccleaner.data.decoding import Decoded, DecodePool
from nccleaner.data.distinct import DistinctFeatures, GrowingArray, Started
from nccleaner.data.images import ImageRejected, Pixels, shrink
from nccleaner.data.metadata import first_line, texts
from nccleaner.data.reading import ShardReading
from nccleaner.errors import RunError
from nccleaner.files import read_parquet, replace_folder, write_json, write_parquet
from nccleaner.identity import derive_uid, is_uid
from nccleaner.records import OK, ImageSpec, Limits, Sample, Shard, ShardReport

Features: TypeAlias = npt.NDArray[np.float16]

FeatureKind: TypeAlias = Literal["image", "text"]
Rows: TypeAlias = slice | npt.NDArray[np.integer[Any]]

# Changes with the layout of a part, so that parts of another layout are made anew.
_LAYOUT = 1

TARGET_PX = 64

# Encoders of text sort what they are given by length; the more, the less padding.
_CAPTION_BATCH = 1024

_SAMPLES = pa.schema(
    [
        *((name, pa.string()) for name in ("key", "status", "detail", "caption", "uid", "url")),
        ("image_sha256", pa.string()),
        ("image_row", pa.int32()),
        ("text_row", pa.int32()),
    ]
)


class ImageEncoder(Protocol):
    """What extraction needs of an image encoder.

    Attributes:
        name: What people call it.
        fingerprint: Changes with whatever changes the features.
        width: Length of a feature.
        spec: The square of pixels that it expects.
    """

    name: str
    fingerprint: str
    width: int
    spec: ImageSpec

    def encode(self, images: Pixels) -> npt.NDArray[np.float32]:
        """Encodes [b, size_px, size_px, 3] to [b, width]."""

    def start(self, images: Pixels) -> Started:
        """Starts what `encode` does; the features are waited for when the result is called."""


class TextEncoder(Protocol):
    """What extraction needs of a text encoder; the attributes are those of `ImageEncoder`."""

    name: str
    fingerprint: str
    width: int

    def encode(self, captions: list[str]) -> npt.NDArray[np.float32]:
        """Encodes b captions to [b, width]."""


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


def extract_part(
    shard: Shard,
    *,
    root: Path,
    fingerprint: str,
    image_encoder: ImageEncoder,
    text_encoder: TextEncoder | None,
    pool: DecodePool,
    limits: Limits,
    batch_size: int,
    on_samples: Callable[[int], None],
    with_targets: bool = False,
) -> FeaturePart:
    """Reads a shard, decodes and encodes its pairs, and writes its part to the cache.

    The pool decodes while the encoder works. An earlier part of the shard is replaced when the new
    one is whole. The features depend neither on the number of workers nor on when they finish.

    Args:
        shard: What to read.
        root: `features/`; the part becomes `root/<shard name>`.
        fingerprint: As `part_fingerprint` gives it for the same arguments.
        image_encoder: Encodes images.
        text_encoder: Encodes captions; None where the text encoder is trained from tokens.
        pool: Decodes images.
        limits: What one sample may cost.
        batch_size: Images that the encoder gets at a time.
        on_samples: Called with the number of samples that are done since the last call.
        with_targets: Keep the images too, small, as what reconstruction aims at: what the encoder
            sees of them.

    Returns:
        The part as written.

    Raises:
        ShardError: The storage of the shard failed.
        InputError: An encoder gave features that are no finite float16 numbers.
    """
    folder = root / shard.name
    reading = ShardReading(shard, limits=limits)
    with replace_folder(folder) as temporary:
        with ExitStack() as files:
            targets: GrowingArray | None = None
            if with_targets:
                targets = GrowingArray(
                    files.enter_context((temporary / "target.npy").open("wb")),
                    dtype="|u1",
                    row=(TARGET_PX, TARGET_PX, 3),
                )

            def start(squares: list[Pixels]) -> Started:
                if targets is not None:
                    targets.append(np.stack([shrink(x, size_px=TARGET_PX) for x in squares]))
                return image_encoder.start(np.stack(squares))

            images: DistinctFeatures[Pixels] = DistinctFeatures(
                files.enter_context((temporary / "image.npy").open("wb")),
                start=start,
                width=image_encoder.width,
                encoder=image_encoder.name,
                batch_size=batch_size,
            )
            captions: DistinctFeatures[str] | None = None
            if text_encoder is not None:
                captions = DistinctFeatures(
                    files.enter_context((temporary / "text.npy").open("wb")),
                    start=lambda batch: partial(text_encoder.encode, batch),
                    width=text_encoder.width,
                    encoder=text_encoder.name,
                    batch_size=_CAPTION_BATCH,
                )
            samples = []
            tagged = pool.decode(_tagged_images(reading), spec=image_encoder.spec, limits=limits)
            for row in _rows(tagged, images, captions):
                samples.append(row)
                on_samples(1)
            lengths = {"image": images.finish()}
            if captions is not None:
                lengths["text"] = captions.finish()
            if targets is not None:
                lengths["target"] = targets.finish()

        metadata = reading.metadata()
        write_parquet(_samples_table(shard, samples, metadata), temporary / "samples.parquet")
        write_parquet(metadata, temporary / "metadata.parquet")
        report = _report(shard, samples, reading.problem)
        description = {"fingerprint": fingerprint, "lengths": lengths, "report": asdict(report)}
        write_json(description, temporary / "part.json")
    return FeaturePart(folder, report)


def _tagged_images(
    reading: ShardReading,
) -> Iterator[tuple[tuple[Sample, str | None], bytes | None]]:
    """Yields each sample and its image's digest with the image, if that is to be decoded.

    Rejects have no digest, and an image that came before is not decoded again.
    """
    seen = set()
    for sample in reading:
        digest = image = None
        if sample.status == OK and sample.image is not None:
            digest = hashlib.sha256(sample.image).hexdigest()
            if digest not in seen:
                seen.add(digest)
                image = sample.image
        yield (replace(sample, image=None), digest), image


def _rows(
    tagged: Iterable[tuple[tuple[Sample, str | None], Decoded | None]],
    images: DistinctFeatures[Pixels],
    captions: DistinctFeatures[str] | None,
) -> Iterator[dict[str, Any]]:
    """Yields the row of each sample in `samples.parquet`, but `uid` and `url`."""
    rejected: dict[str, ImageRejected] = {}
    for (sample, digest), decoded in tagged:
        status, detail, caption = sample.status, sample.detail, sample.caption
        image_row = text_row = -1
        if digest is not None:
            if isinstance(decoded, ImageRejected):
                rejected[digest] = decoded
            elif decoded is not None:
                images.add(digest, decoded)
            if digest in rejected:
                status, detail = rejected[digest].reason, rejected[digest].detail
            else:
                image_row = images.row_of[digest]
                if captions is not None:
                    assert caption is not None, "a sample whose status is ok has a caption"
                    captions.add(caption, caption)
                    text_row = captions.row_of[caption]
        yield {
            "key": sample.key,
            "status": status,
            "detail": detail,
            "caption": caption,
            "image_sha256": digest,
            "image_row": image_row,
            "text_row": text_row,
        }


def _samples_table(shard: Shard, rows: Sequence[dict[str, Any]], metadata: pa.Table) -> pa.Table:
    uids, urls = _own_texts(metadata, "uid"), _own_texts(metadata, "url")
    for row, uid, url in zip(rows, uids, urls, strict=True):
        row["uid"] = uid if is_uid(uid) else derive_uid(shard.name, row["key"])
        row["url"] = url
    return pa.Table.from_pylist(rows, _SAMPLES)


def _own_texts(metadata: pa.Table, name: str) -> list[str | None]:
    """Reads one of the shard's own columns; nulls where it is not there or holds no text."""
    if name in metadata.column_names:
        try:
            return texts(metadata[name])
        except pa.ArrowException:
            pass  # a list or a structure
    return [None] * metadata.num_rows


def _report(shard: Shard, rows: Sequence[dict[str, Any]], problem: str) -> ShardReport:
    counts = Counter(row["status"] for row in rows)
    pairs = counts.pop(OK, 0)
    return ShardReport(shard.name, len(rows), pairs, dict(counts), problem)


def _open_features(path: Path) -> Features:
    features: Features = np.load(path, mmap_mode="r")
    return features
