"""Encoded images from shards in, small images as text out, for pages that load nothing.

A thumbnail is a JPEG in a `data:` URI. Whatever the bytes claimed to be, what gets into a page was
decoded and encoded again here.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
from PIL import Image

from nccleaner.data.decoding import DecodePool
from nccleaner.data.images import Pixels, decode_whole
from nccleaner.records import ImageSpec, Limits

T = TypeVar("T")

# About 5 KB for 160 pixels of a photograph.
_QUALITY = 75


def make_thumbnails(
    images: Iterable[tuple[T, bytes | None]], *, size_px: int, limits: Limits, workers: int
) -> Iterator[tuple[T, str | None]]:
    """Makes thumbnails in the order of the images, whose shape they keep.

    Args:
        images: Encoded images from anywhere, each with a tag of the caller's.
        size_px: Longer side, at most; a smaller image stays as small as it is.
        limits: What decoding one image may cost.
        workers: Processes that decode; 0 decodes in this one.

    Yields:
        The tags, each with a URI that an `img` takes as its source; None where there is no image,
        or none that decodes.
    """
    with DecodePool(workers=workers, decode=decode_whole) as pool:
        for tag, decoded in pool.decode(images, spec=ImageSpec(size_px=size_px), limits=limits):
            yield tag, _data_uri(decoded) if isinstance(decoded, np.ndarray) else None


def _data_uri(pixels: Pixels) -> str:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode('ascii')}"
