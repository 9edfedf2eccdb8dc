"""Encoded images in, pixels out: squares for encoders, whole images for people.

Images come from strangers: only JPEG, PNG and WEBP are tried, and the size that the header states
is checked before anything is decoded. A limit on time is set by `decoding`.
"""

from __future__ import annotations

import io
import warnings
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from nccleaner.records import IMAGE_TOO_LARGE, UNDECODABLE_IMAGE, ImageSpec, Limits

Pixels: TypeAlias = npt.NDArray[np.uint8]

_FORMATS = ("JPEG", "PNG", "WEBP")

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

# What makes the picture upright, for each EXIF orientation but 1, which is upright already.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageRejected(Exception):  # noqa: N818 - an outcome, not an error
    """An image that cannot be used.

    Args:
        reason: One of the reject reasons of `records`.
        detail: What exactly was wrong, for people; the same in every run.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def decode_image(data: bytes, *, spec: ImageSpec, limits: Limits) -> Pixels:
    """Decodes an image, turns it upright, puts it on white and fits it into a square.

    Args:
        data: A JPEG, PNG or WEBP. Of an animation the first frame is taken.
        spec: How to resize.
        limits: `max_image_pixels` is checked here. Pillow's own limit of 179 million pixels holds
            besides.

    Returns:
        RGB, [size_px, size_px, 3].

    Raises:
        ImageRejected: The image is too large, damaged, or of no format that is read.
    """
    return _decode(data, spec=spec, limits=limits, whole=False)


def decode_whole(data: bytes, *, spec: ImageSpec, limits: Limits) -> Pixels:
    """Decodes an image as `decode_image` does, but leaves it its shape, for people to look at.

    Returns:
        RGB, [height, width, 3]. The longer side has `spec.size_px`, or what it had if that is less.

    Raises:
        ImageRejected: The image is too large, damaged, or of no format that is read.
    """
    return _decode(data, spec=spec, limits=limits, whole=True)


def shrink(square: Pixels, *, size_px: int) -> Pixels:
    """Makes a smaller square, [size_px, size_px, 3], of one that was decoded; bicubic."""
    image = Image.fromarray(square)
    return np.array(image.resize((size_px, size_px), Image.Resampling.BICUBIC))


def _decode(data: bytes, *, spec: ImageSpec, limits: Limits, whole: bool) -> Pixels:
    try:
        # Pillow warns of many an oddity in files that it reads all the same.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                _check_size(image, limits)
                return _fit(image, spec, whole=whole)
    except ImageRejected:
        raise
    except UnidentifiedImageError:
        # Its own message names an address in memory.
        names = f"{', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}"
        raise ImageRejected(UNDECODABLE_IMAGE, f"no image that is a {names}") from None
    except Image.DecompressionBombError as error:
        raise ImageRejected(IMAGE_TOO_LARGE, str(error)) from None
    # On damaged files Pillow's parsers raise whatever they stumble over.
    except Exception as error:
        raise ImageRejected(UNDECODABLE_IMAGE, f"{type(error).__name__}: {error}") from None


def _check_size(image: Image.Image, limits: Limits) -> None:
    width_px, height_px = image.size
    if width_px * height_px > limits.max_image_pixels:
        found = f"{width_px}x{height_px} pixels; at most {limits.max_image_pixels} are decoded"
        raise ImageRejected(IMAGE_TOO_LARGE, found)


def _fit(image: Image.Image, spec: ImageSpec, *, whole: bool) -> Pixels:
    # A JPEG is decoded at 1/2, 1/4 or 1/8 where that leaves twice the pixels that are needed.
    wanted_px = 2 * max(spec.size_px, spec.resize_px)
    image.draft(None, (wanted_px, wanted_px))
    image.load()
    orientation = _orientation(image)

    image = _plain_mode(image)
    size = _size_within(image.size, spec.size_px) if whole else (spec.size_px, spec.size_px)
    box = None if whole else _box(image.size, spec)
    small = image.resize(size, _RESAMPLING[spec.interpolation], box=box)
    if small.mode == "RGBA":
        white = Image.new("RGBA", small.size, "white")
        small = Image.alpha_composite(white, small).convert("RGB")
    # The last step, as a small image turns faster than the original.
    if orientation in _UPRIGHT:
        small = small.transpose(_UPRIGHT[orientation])
    return np.array(small)


def _size_within(size: tuple[int, int], side_px: int) -> tuple[int, int]:
    """Width and height whose longer one is at most `side_px`, in the ratio that they have."""
    scale = min(1.0, side_px / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _box(size: tuple[int, int], spec: ImageSpec) -> tuple[float, float, float, float]:
    """The part of the image that goes into the square: left, upper, right, lower."""
    width, height = size
    if spec.resize_px == 0:
        return 0, 0, width, height
    side = min(size) * spec.size_px / spec.resize_px
    return (width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2


def _plain_mode(image: Image.Image) -> Image.Image:
    """Converts any mode to RGB, or to RGBA where there is transparency."""
    if image.mode.startswith("I"):
        # 16 bits a pixel: Pillow's conversion would clip all but the darkest to white.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _orientation(image: Image.Image) -> object:
    """The EXIF orientation, or None; damage in notes about an image does not spoil the image."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        return None
