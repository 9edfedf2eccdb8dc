"""The records through which one stage meets the next, and the words they use for outcomes.

A `Shard` names a place to read; reading it yields `Sample`s; a sample whose `status` is `OK` is a
pair, any other is a reject with its reason. Nothing here reads, writes or computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

OK = "ok"

# Why a sample is not a pair, or not kept. These words are part of the output contract.
MISMATCHED = "mismatched"
MISSING_IMAGE = "missing_image"
UNDECODABLE_IMAGE = "undecodable_image"
IMAGE_TOO_LARGE = "image_too_large"
DECODE_TIMEOUT = "decode_timeout"
EMPTY_CAPTION = "empty_caption"
CAPTION_TOO_LONG = "caption_too_long"
DUPLICATE_KEY = "duplicate_key"
TRUNCATED_SHARD = "truncated_shard"
UNREADABLE_METADATA = "unreadable_metadata"

REJECT_REASONS = (
    MISMATCHED,
    MISSING_IMAGE,
    UNDECODABLE_IMAGE,
    IMAGE_TOO_LARGE,
    DECODE_TIMEOUT,
    EMPTY_CAPTION,
    CAPTION_TOO_LONG,
    DUPLICATE_KEY,
    TRUNCATED_SHARD,
    UNREADABLE_METADATA,
)

ShardKind = Literal["webdataset", "parquet", "files"]


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard of the input.

    Attributes:
        name: Its identity in every output, unique within a run: the file or folder name without
            its extension, for example `00012`.
        url: Where it is, as fsspec understands it: the tar, the Parquet file or the folder.
        kind: `webdataset` (a tar), `parquet` (image bytes in a column) or `files` (a folder).
        sidecar_url: img2dataset's Parquet beside a tar or a folder, if there is one.
        stats_url: img2dataset's `_stats.json`, if there is one.
        size_bytes: Size of what `url` names; 0 for a folder, -1 where the storage does not say.
        version: What changes when the content changes: mtime, etag or checksum as text.
    """

    name: str
    url: str
    kind: ShardKind
    sidecar_url: str | None = None
    stats_url: str | None = None
    size_bytes: int = -1
    version: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One entry of a shard: a pair where `status` is `OK`, else a reject.

    Attributes:
        shard: Name of its shard.
        key: Its key there.
        image: The encoded image as it was in the shard; None where there is none.
        caption: The caption as it was, or None.
        metadata: The sample's own fields, as read from its JSON. Empty where the shard has a
            Parquet sidecar, whose rows are joined by `key` without passing through Python.
        status: `OK`, or the reason why the sample is no pair.
        detail: What exactly was wrong, for people.
    """

    shard: str
    key: str
    image: bytes | None
    caption: str | None
    metadata: Mapping[str, object] = field(default_factory=dict)
    status: str = OK
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one sample may cost before it is rejected.

    Attributes:
        max_image_pixels: Width times height, checked before decoding.
        max_caption_chars: Characters; a longer caption is a page, not a caption.
        decode_timeout_s: Seconds for one image.
        max_member_bytes: Bytes of one member of a tar.
    """

    max_image_pixels: int
    max_caption_chars: int
    decode_timeout_s: float
    max_member_bytes: int


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What reading one shard found.

    Attributes:
        shard: Name of the shard.
        samples: Samples that the shard holds, pairs and rejects.
        pairs: Samples that are pairs.
        rejects: Count of each reason.
        problem: What is wrong with the shard as a whole (truncated, empty, fewer samples than its
            `_stats.json` promises); empty when nothing is.
    """

    shard: str
    samples: int
    pairs: int
    rejects: Mapping[str, int]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """How an image becomes the square of pixels that an image encoder expects.

    Attributes:
        size_px: Side of the square.
        resize_px: The shorter side after resizing, before a central crop of `size_px`; 0 squashes
            the whole image into the square instead, so that nothing a caption may name is cut off.
        interpolation: Between pixels; with antialiasing.
    """

    size_px: int
    resize_px: int = 0
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
