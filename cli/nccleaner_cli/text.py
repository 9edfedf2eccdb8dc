"""Text for a terminal: what strangers wrote made harmless, and figures written for people."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

# Zero-width (non-)joiners: Persian, Indic scripts and emoji cannot be written without.
_JOINERS = "\u200c\u200d"


def escape_controls(text: str) -> str:
    r"""Writes out what a terminal would obey instead of show: `\x1b` for an escape, and the like.

    Controls, bidirectional overrides, surrogates and unassigned code points are written as in a
    Python string; line breaks too.
    """
    return "".join(
        char if char.isprintable() or char in _JOINERS else _written_out(char) for char in text
    )


def one_line(text: str, *, max_chars: int | None = None) -> str:
    """Makes one harmless line of any text, runs of white space as one space.

    Args:
        text: From anywhere.
        max_chars: Where to cut; None: nowhere.
    """
    if max_chars is not None and len(text) > max_chars:
        text = text[: max_chars - 1] + "…"
    return escape_controls(" ".join(text.split()))


def quantity(number: int, noun: str) -> str:
    """`1 shard`, `1,050 pairs`: the noun in the singular, whose plural takes an s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def percent(share: float) -> str:
    """A share in [0, 1] as `28.7%`."""
    return f"{share:.1%}"


def at_least(share: float) -> str:
    """A lower bound in [0, 1] as `90.2%`, never above what it is."""
    return f"{math.floor(share * 1000) / 1000:.1%}"


def duration(seconds: float) -> str:
    """`0.4 s`, `41 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest_s} s"
    hours, rest_min = divmod(minutes, 60)
    return f"{hours} h {rest_min} min" if hours else f"{minutes} min {rest_s} s"


def command_line(*words: str | Path) -> str:
    """A command as one would type it, quoted where the shell needs it."""
    return shlex.join(str(word) for word in words)


def bullet_lines(items: Sequence[str], *, limit: int, rest: str) -> list[str]:
    """The first `limit` items, and a line that says how many more there are and where."""
    more = len(items) - limit
    return [*items[:limit], *([f"... and {more:,} more, see {rest}"] if more > 0 else [])]


def _written_out(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
