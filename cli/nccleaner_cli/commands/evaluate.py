"""`nccleaner evaluate`: measures against what is known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nccleaner.errors import UsageError
from nccleaner_cli.command import Command, output_option, run_option, shows_result
from nccleaner_cli.console import Display
from nccleaner_cli.results import show_detection, show_retrieval

if TYPE_CHECKING:
    from nccleaner.pipeline.results import EvaluateResult

_HELP = """Measures what was learned, where the right answer is known.

With SHARDS, which must hold clean pairs only: how often an image finds its caption among the first
1, 5 and 10, and a caption its image. Any of an image's captions will do: samples with equal images
are one image.

With --truth, a CSV with the columns shard, key and mismatched (0 or 1), as `nccleaner corrupt`
writes it: how well the mismatched pairs were found."""


@click.command(
    "evaluate",
    cls=Command,
    help=_HELP,
    examples=[
        "nccleaner evaluate clean-shards/",
        "nccleaner evaluate coco-test/ --folds 5",
        "nccleaner evaluate --truth noisy/truth.csv",
    ],
    then="Compare runs: fit with other settings into another --run, and evaluate that.",
)
@click.argument("shards", nargs=-1)
@run_option()
@output_option()
@click.option(
    "--folds",
    type=click.IntRange(min=2),
    metavar="N",
    help="Measure retrieval also within N parts of the images, and give the mean; 5 on MS-COCO's "
    "5,000 test images is its 1K protocol.",
)
@click.option(
    "--truth",
    type=click.Path(path_type=Path, dir_okay=False),
    help="CSV that says which pairs are mismatched.",
)
@shows_result
def evaluate(
    display: Display,
    *,
    shards: tuple[str, ...],
    run: Path,
    output: Path | None,
    folds: int | None,
    truth: Path | None,
) -> EvaluateResult:
    """Runs the command."""
    if not shards and truth is None:
        raise UsageError(
            "Nothing to measure against.", "Name clean SHARDS, or give --truth, or both."
        )

    from nccleaner.pipeline.evaluate import evaluate as measure

    result = measure(
        run, shards or None, folds=folds or 1, truth=truth, output=output, reporter=display
    )
    if result.retrieval:
        show_retrieval(display, result.retrieval)
    if result.retrieval_in_folds:
        show_retrieval(display, result.retrieval_in_folds, folds=folds or 1)
    if result.detection:
        show_detection(display, result.detection)
    return result
