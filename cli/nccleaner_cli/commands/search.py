"""`nccleaner search`: finds kept pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nccleaner_cli.command import Command, output_option, run_option, shows_result
from nccleaner_cli.console import Display
from nccleaner_cli.results import show_hits

if TYPE_CHECKING:
    from nccleaner.pipeline.results import Hit

_HELP = """Finds the kept pairs nearest to QUERY: a text, the path of an image file, or SHARD/KEY
for the image of a pair in the shards, kept or not.

A text is compared with the images, an image with the captions. The figure is the inner product of
their embeddings, at most 1; higher is nearer."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What `--json` writes.

    Attributes:
        query: What was looked for.
        hits: What was found, the nearest first.
    """

    query: str
    hits: Sequence[Hit]


@click.command(
    "search",
    cls=Command,
    help=_HELP,
    examples=[
        'nccleaner search "a dog on the beach"',
        "nccleaner search photo.jpg --count 50 --html found.html",
        "nccleaner search 00000/000000042",
    ],
    then="Pairs that should not be there? `nccleaner purge` with a higher --threshold drops more.",
)
@click.argument("query")
@run_option()
@output_option()
@click.option(
    "--count", type=click.IntRange(min=1), default=10, show_default=True, help="Pairs to show."
)
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a page with the images of what was found; it needs no network.",
)
@shows_result
def search(
    display: Display, *, query: str, run: Path, output: Path | None, count: int, html: Path | None
) -> SearchResult:
    """Runs the command."""
    import nccleaner

    hits = nccleaner.search(run, query, count=count, output=output, html=html, reporter=display)
    show_hits(display, hits)
    if html is not None:
        display.heading(f"Wrote {html}")
    return SearchResult(query, hits)
