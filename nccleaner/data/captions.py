"""Text and JSON members in, captions and fields out, and what is wrong with them.

A fault is a reject reason with what exactly was wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from nccleaner.data.metadata import CAPTION_NAMES
from nccleaner.records import (
    CAPTION_TOO_LONG,
    EMPTY_CAPTION,
    IMAGE_TOO_LARGE,
    Limits,
)

Fault = tuple[str, str]


# Whatever reads fields deeper would meet the limit of Python's stack, here or later.
_MAX_NESTING = 100


def decode_text(data: bytes) -> tuple[str, str]:
    """Decodes UTF-8 without changing anything, and says so where that was not possible.

    Bytes that are no UTF-8 become U+FFFD: the rest of such a caption usually still describes its
    image, and a caption that it does not describe is what the model is there to find.
    """
    try:
        return data.decode("utf-8"), ""
    except UnicodeDecodeError as error:
        return data.decode("utf-8", "replace"), f"caption is not UTF-8 at byte {error.start}"


def parse_fields(data: bytes) -> tuple[Mapping[str, object], str]:
    """Reads a JSON object; the second value says why there is none."""
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        return {}, f"json cannot be read: {error}"
    if not isinstance(fields, dict):
        return {}, f"json holds a {type(fields).__name__}, not an object"
    if _is_nested(fields, _MAX_NESTING):
        return {}, f"json cannot be read: it is nested more than {_MAX_NESTING} deep"
    return fields, ""


def _is_nested(value: object, levels: int) -> bool:
    """Whether objects and lists are nested more than `levels` deep."""
    if not isinstance(value, (dict, list)):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_nested(item, levels - 1) for item in inner)


def caption_field(fields: Mapping[str, object]) -> str | None:
    """The caption among JSON fields; None where there is none that is text."""
    for name in CAPTION_NAMES:
        if isinstance(value := fields.get(name), str):
            # JSON can escape half of a surrogate pair, which no file can hold.
            return value.encode("utf-8", "replace").decode("utf-8")
    return None


def caption_fault(caption: str | None, limits: Limits) -> Fault | None:
    """Judges a caption."""
    if caption is None or not caption.strip():
        return EMPTY_CAPTION, "no caption" if caption is None else "only white space"
    if len(caption) > limits.max_caption_chars:
        found = f"{len(caption)} characters; at most {limits.max_caption_chars} are read"
        return CAPTION_TOO_LONG, found
    return None


def image_fault(size_bytes: int, limits: Limits) -> Fault | None:
    """Judges the size of an encoded image."""
    if size_bytes > limits.max_member_bytes:
        return IMAGE_TOO_LARGE, f"{size_bytes} bytes; at most {limits.max_member_bytes} are read"
    return None


def missing_detail(status: str | None, error_message: str | None) -> str:
    """Says why a row has no image, in img2dataset's own words."""
    if status == "success":
        return "its row says success, but the shard has no image for it"
    return ": ".join(filter(None, (status, error_message))) or "its row has no image"
