"""`nccleaner demo`: the whole job on the embedded example, explained to a newcomer."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nccleaner_cli import tour
from nccleaner_cli.command import Command, run_option, shows_result
from nccleaner_cli.console import Display
from nccleaner_cli.example import count_rows, read_example, surest_rejects

if TYPE_CHECKING:
    from nccleaner.pipeline.results import EvaluateResult, FitResult, PurgeResult, ReportResult

_HELP = """Does the whole job on drawings of the Open Clip Art Library that come with nccleaner:
learns, cleans, compares with the truth, searches, and explains each step in plain words.

Takes a few minutes on two cores, and no network."""

_PRESET = "small"
_QUERIES = ("a bird", "a musical instrument", "a road sign")
_REJECTS_SHOWN = 8
_HITS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What `--json` writes: the results of the steps.

    Attributes:
        fit: Of `nccleaner fit`.
        purge: Of `nccleaner purge`.
        evaluate: Of `nccleaner evaluate --truth`.
        report: Of `nccleaner report`.
    """

    fit: FitResult
    purge: PurgeResult
    evaluate: EvaluateResult
    report: ReportResult


@click.command(
    "demo",
    cls=Command,
    help=_HELP,
    examples=["nccleaner demo", "nccleaner demo --run my-demo"],
    then="Look into the run directory, then clean your own shards: `nccleaner fit --help`.",
)
@run_option(Path("nccleaner-demo"))
@shows_result
def demo(display: Display, *, run: Path) -> DemoResult:
    """Runs the command."""
    import nccleaner
    from nccleaner.pipeline.evaluate import evaluate

    example = read_example()
    tour.tell_data(display, example)

    preset = ("--preset", _PRESET)
    tour.announce(
        display, "2. Learn", "fit", example.shards, "--meta", example.trusted, *preset, "--run", run
    )
    fitted = nccleaner.fit(
        [example.shards],
        meta=example.trusted,
        run=run,
        config=nccleaner.RunConfig.preset(_PRESET),
        reporter=display,
    )
    tour.tell_fit(display, fitted)

    tour.announce(display, "3. Clean", "purge", "--run", run)
    purged = nccleaner.purge(run, reporter=display)
    rows, rejects = count_rows(purged.folder), surest_rejects(purged.folder, _REJECTS_SHOWN)
    tour.tell_purge(display, purged, rows=rows, rejects=rejects)

    evaluate_words = ("evaluate", "--truth", example.truth, "--run", run)
    tour.announce(display, "4. Compare with the truth", *evaluate_words)
    start = time.monotonic()
    evaluated = evaluate(run, truth=example.truth, reporter=display)
    assert evaluated.detection is not None, "a truth was given"
    tour.tell_detection(display, evaluated.detection, time.monotonic() - start)

    tour.announce(display, "5. Look at it", "report", "--run", run)
    reported = nccleaner.report(run, reporter=display)
    tour.tell_report(display, reported)

    tour.announce(display, "6. Search what was kept", "search", _QUERIES[0], "--run", run)
    for query in _QUERIES:
        start = time.monotonic()
        hits = nccleaner.search(run, query, count=_HITS_SHOWN)
        tour.tell_hits(display, query, hits, time.monotonic() - start)

    tour.tell_next(display, run)
    return DemoResult(fitted, purged, evaluated, reported)
