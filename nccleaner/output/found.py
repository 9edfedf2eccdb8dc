"""What a search found as one HTML file that loads nothing: pairs in, a page of thumbnails out.

Captions, keys and the query are escaped by the template; a content security policy lets nothing run
and nothing be fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from nccleaner.files import replace_file

_TEMPLATE = "found.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPair:
    """A pair to look at.

    Attributes:
        shard: Its shard.
        key: Its key there.
        caption: Its caption.
        product: Inner product with the query, higher = nearer.
        thumbnail: Its image as a `data:` URI; None where it could not be read again.
    """

    shard: str
    key: str
    caption: str
    product: float
    thumbnail: str | None


def write_found(path: Path, query: str, pairs: Sequence[FoundPair]) -> None:
    """Writes the page, whole or not at all.

    Args:
        path: The file.
        query: What was looked for.
        pairs: What was found, the nearest first.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8")
    text = environment.from_string(template).render(query=query, pairs=pairs)
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")
