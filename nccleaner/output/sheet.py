"""What reconstruction makes of pairs, for people: a sheet of images, and a table of captions.

    sheet.png       each row a pair: the image, its reconstruction, the caption, its reconstruction
    captions.csv    from, caption, reconstructed: the captions of the sheet, in its order

Pairs of a group are one column of the sheet, under the name of the group.
"""

from __future__ import annotations

import csv
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from nccleaner.files import replace_file

_IMAGE_PX = 128
_GAP_PX = 8
_TEXT_PX = 224
_FONT_PX = 12
_LINE_PX = 15
_LINES = 4  # of each caption
_LINE_CHARS = 36


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """A pair beside what its parts gave.

    Attributes:
        images: [2, 64, 64, 3], the image and its reconstruction; None where images are not rebuilt.
        captions: The same of the caption.
    """

    images: npt.NDArray[np.uint8] | None
    captions: tuple[str, str] | None


def write_sheet(groups: Mapping[str, Sequence[Rebuilt]], folder: Path) -> list[Path]:
    """Writes the sheet if images were rebuilt, and the table if captions were.

    Args:
        groups: Pairs by the name of their group.
        folder: Where the files go.

    Returns:
        The files written.
    """
    pairs = [pair for group in groups.values() for pair in group]
    written = []
    if any(pair.images is not None for pair in pairs):
        written.append(folder / "sheet.png")
        with replace_file(written[-1]) as temporary:
            _draw(groups).save(temporary, "PNG")
    if any(pair.captions is not None for pair in pairs):
        written.append(folder / "captions.csv")
        with (
            replace_file(written[-1]) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            rows = csv.writer(file)
            rows.writerow(["from", "caption", "reconstructed"])
            for name, group in groups.items():
                rows.writerows([name, *pair.captions] for pair in group if pair.captions)
    return written


def _draw(groups: Mapping[str, Sequence[Rebuilt]]) -> Image.Image:
    has_text = any(pair.captions for group in groups.values() for pair in group)
    column_px = 2 * (_IMAGE_PX + _GAP_PX) + (_TEXT_PX + _GAP_PX) * has_text
    row_px = _IMAGE_PX + _GAP_PX
    rows = max(len(group) for group in groups.values())
    header_px = _LINE_PX + 2 * _GAP_PX
    size = (_GAP_PX + column_px * len(groups), header_px + row_px * rows)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_FONT_PX)
    for column, (name, group) in enumerate(groups.items()):
        left = _GAP_PX + column * column_px
        draw.text((left, _GAP_PX), f"{name}: original, reconstructed", "black", font)
        for row, pair in enumerate(group):
            top = header_px + row * row_px
            for place, pixels in enumerate([] if pair.images is None else pair.images):
                image = Image.fromarray(pixels).resize((_IMAGE_PX, _IMAGE_PX))
                sheet.paste(image, (left + place * (_IMAGE_PX + _GAP_PX), top))
            for place, caption in enumerate(pair.captions or ()):
                corner = (left + 2 * (_IMAGE_PX + _GAP_PX), top + place * _IMAGE_PX // 2)
                draw.multiline_text(corner, _wrapped(caption), ("black", "navy")[place], font)
    return sheet


def _wrapped(caption: str) -> str:
    lines = textwrap.wrap(caption, _LINE_CHARS, max_lines=_LINES, placeholder=" …")
    return "\n".join(lines)
