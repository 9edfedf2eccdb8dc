"""`nccleaner index`: builds the FAISS indexes again, of another kind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nccleaner.output.index.kinds import KINDS, MEMORY_GB
from nccleaner_cli.command import Command, output_option, run_option, run_words, shows_result
from nccleaner_cli.console import Display
from nccleaner_cli.results import show_index
from nccleaner_cli.text import command_line

if TYPE_CHECKING:
    from nccleaner.pipeline.index import KindChoice
    from nccleaner.pipeline.results import IndexResult

_HELP = """Builds the FAISS indexes of the kept pairs again, of another kind than `nccleaner purge`
chose, and measures how many of the ten nearest pairs each finds."""


@click.command(
    "index",
    cls=Command,
    help=_HELP,
    examples=["nccleaner index --kind flat", "nccleaner index --memory-gb 8"],
    then='`nccleaner search "a red car"`, or read clean/index/image.faiss with FAISS.',
)
@run_option()
@output_option()
@click.option(
    "--kind",
    type=click.Choice(["auto", *KINDS]),
    default="auto",
    show_default=True,
    help="flat: exact; hnsw: fast, in memory; ivf-flat: from the disk; ivf-pq: compressed; auto: "
    "the first that suits the number of pairs and the memory.",
)
@click.option(
    "--memory-gb",
    type=click.FloatRange(min=0, min_open=True),
    default=MEMORY_GB,
    show_default=True,
    help="What building may hold in memory; flat and hnsw, when told, take what they need.",
)
@shows_result
def index(
    display: Display, *, run: Path, output: Path | None, kind: KindChoice, memory_gb: float
) -> IndexResult:
    """Runs the command."""
    import nccleaner

    result = nccleaner.index(run, kind=kind, memory_gb=memory_gb, output=output, reporter=display)
    show_index(display, result)
    display.heading(f"Written to {result.folder}. Next:")
    display.command(command_line("nccleaner", "search", "a red car", *run_words(run, output)))
    return result
