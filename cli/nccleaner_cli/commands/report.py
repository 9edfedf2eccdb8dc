"""`nccleaner report`: one HTML page about the purge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nccleaner_cli.command import Command, output_option, run_option, shows_result
from nccleaner_cli.console import Display
from nccleaner_cli.results import show_report

if TYPE_CHECKING:
    from nccleaner.pipeline.results import ReportResult

_HELP = """Writes clean/report.html about the last purge: what it decided and what other cut-offs
would give, the scores of all pairs, pairs to look at with their images, what was rejected and why,
and how training went.

The page is one file that loads nothing, to open in any browser or to send to somebody. It stays
small whatever the size of the data set: pairs are drawn by the seed of the run."""


@click.command(
    "report",
    cls=Command,
    help=_HELP,
    examples=["nccleaner report", "nccleaner report --run my-run"],
    then="Open the page in a browser. Look at the pairs around the cut-off, and try another with "
    "`nccleaner purge` if too many of them are on the wrong side.",
)
@run_option()
@output_option()
@shows_result
def report(display: Display, *, run: Path, output: Path | None) -> ReportResult:
    """Runs the command."""
    import nccleaner

    result = nccleaner.report(run, output=output, reporter=display)
    show_report(display, result)
    return result
