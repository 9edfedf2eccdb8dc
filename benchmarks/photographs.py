"""Shards of made-up JPEGs that cost what photographs cost, so that no data set is needed."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

# Photographs have about this spectrum: amplitudes fall with the frequency to this power.
_FALL = 1.4
_CONTRAST, _COLOUR = 48.0, 16.0
_QUALITY = 87
_TEXTURES = 4


def write_photographs(path: Path, *, count: int, width_px: int, height_px: int, seed: int) -> None:
    """Writes a tar as img2dataset does, each sample a JPEG, a caption and a JSON.

    The images are noise with the spectrum and the contrast of photographs, about 0.25 bytes a pixel
    as those on the web have; no two are the same.

    Args:
        path: The tar, which is replaced.
        count: Samples.
        width_px: Of each image.
        height_px: Of each image.
        seed: Draws them.
    """
    draw = np.random.default_rng(seed)
    textures = [_texture(draw, width_px, height_px) for _ in range(_TEXTURES)]
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            shift = (int(draw.integers(height_px)), int(draw.integers(width_px)))
            pixels = np.roll(textures[number % _TEXTURES], shift, (0, 1))
            fields = {"url": f"https://example.com/{number}.jpg", "width": width_px}
            members = {
                "jpg": _jpeg(pixels),
                "txt": f"a pattern of waves and clouds, number {number} of {count}".encode(),
                "json": json.dumps(fields).encode(),
            }
            for suffix, data in members.items():
                header = tarfile.TarInfo(f"{seed:03d}{number:06d}.{suffix}")
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))


def _texture(draw: np.random.Generator, width_px: int, height_px: int) -> npt.NDArray[np.uint8]:
    """One image, [height, width, 3]: channels that mostly go together."""
    rows, columns = np.fft.fftfreq(height_px)[:, None], np.fft.rfftfreq(width_px)
    lowest = 1 / max(width_px, height_px)
    amplitudes = np.maximum(np.hypot(rows, columns), lowest) ** -_FALL

    def plane() -> npt.NDArray[np.float64]:
        phases = np.exp(2j * np.pi * draw.random(amplitudes.shape))
        values: npt.NDArray[np.float64]
        values = np.fft.irfft2(amplitudes * phases, (height_px, width_px))
        values /= values.std()
        return values

    light = _CONTRAST * plane() + 128
    channels = np.stack([light + _COLOUR * plane() for _ in range(3)], axis=-1)
    return channels.clip(0, 255).astype(np.uint8)


def _jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
