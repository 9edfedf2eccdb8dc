"""`nccleaner score`: scores every pair of a set of shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nccleaner_cli.command import (
    Command,
    engine_option,
    output_option,
    run_option,
    run_words,
    shows_result,
)
from nccleaner_cli.console import Display
from nccleaner_cli.results import show_reading
from nccleaner_cli.text import command_line, duration

if TYPE_CHECKING:
    from nccleaner.pipeline.engines import EngineName
    from nccleaner.pipeline.results import ScoreResult

_HELP = """Scores every pair with what `nccleaner fit` learned, one Parquet file a shard.

Without SHARDS those that were fitted on are scored, and `nccleaner purge` does that by itself.
Other SHARDS may be named: fit on a sample, score everything. Keep them apart with --output."""


@click.command(
    "score",
    cls=Command,
    help=_HELP,
    examples=[
        "nccleaner score",
        "nccleaner score more-shards/ --output more-clean",
    ],
    then="`nccleaner purge`, with the same --run and --output, drops the mismatched.",
)
@click.argument("shards", nargs=-1)
@run_option()
@output_option()
@engine_option()
@shows_result
def score(
    display: Display,
    *,
    shards: tuple[str, ...],
    run: Path,
    output: Path | None,
    engine: EngineName,
) -> ScoreResult:
    """Runs the command."""
    import nccleaner

    result = nccleaner.score(run, shards or None, output=output, engine=engine, reporter=display)
    show_reading(display, result.reading, str(result.folder))
    display.facts({"Time": duration(result.seconds)})
    display.heading(f"Scores are in {result.folder}. Next:")
    display.command(command_line("nccleaner", "purge", *run_words(run, output)))
    return result
