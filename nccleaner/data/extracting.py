"""Extraction: a shard is read, its images decoded, its pairs encoded, and the part written.

In: a shard, encoders, decoders. Out: a part of the feature cache, as `features` describes it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nccleaner.data.decoding import Decoded, DecodePool
from nccleaner.data.distinct import DistinctFeatures, GrowingArray, Started
from nccleaner.data.features import TARGET_PX, FeaturePart
from nccleaner.data.images import ImageRejected, Pixels, shrink
from nccleaner.data.metadata import texts
from nccleaner.data.reading import ShardReading
from nccleaner.files import replace_folder, write_json, write_parquet
from nccleaner.identity import derive_uid, is_uid
from nccleaner.records import OK, ImageSpec, Limits, Sample, Shard, ShardReport

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
