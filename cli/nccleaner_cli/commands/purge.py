"""`nccleaner purge`: drops the mismatched pairs and writes the others."""

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
from nccleaner_cli.results import show_purge
from nccleaner_cli.text import command_line

if TYPE_CHECKING:
    from nccleaner.pipeline.engines import EngineName
    from nccleaner.pipeline.results import PurgeResult
    from nccleaner.purify.decide import Column

_HELP = """Decides which pairs are mismatched, and writes the manifests of the kept and of the
rejected, FAISS indexes of the kept, and a DataComp subset file. What is not scored yet is scored.

Without a cut-off a pair is kept if it is more likely matched than not, judged by the trusted pairs.
--target-precision P keeps as many pairs as it can while at least a share P of the kept is matched,
and refuses where the labelled pairs are too few to be 95% sure of that.

The result says how many of the kept are estimated to be mismatched, how many of the good pairs are
kept, and what other cut-offs would do. Scores are kept: another cut-off takes seconds."""

_SCORES: dict[str, Column] = {
    "corrected-similarity": "corrected_similarity",
    "clean-probability": "clean_probability",
    "similarity": "similarity",
}
_DEFAULT_SCORE = "corrected-similarity"


@click.command(
    "purge",
    cls=Command,
    help=_HELP,
    examples=[
        "nccleaner purge",
        "nccleaner purge --threshold 0.3",
        "nccleaner purge --threshold 0.9 --by clean-probability",
        "nccleaner purge --keep-fraction 0.5",
        "nccleaner purge --target-precision 0.95",
        "nccleaner purge --target-precision 0.95 --sample labels.csv",
        "nccleaner purge --keep-fraction 0.5 --no-index",
    ],
    then="Look at pairs with `nccleaner report` and `nccleaner search`, train on those in "
    "clean/manifest, "
    "or filter the original shards while training with `nccleaner.KeepSet` in Python.",
)
@run_option()
@output_option()
@click.option(
    "--threshold", type=float, metavar="T", help="Keep the pairs whose score is T or higher."
)
@click.option(
    "--keep-fraction",
    type=float,
    metavar="F",
    help="Keep this share of the pairs: those labelled 1, then those with the highest scores.",
)
@click.option(
    "--target-precision",
    type=float,
    metavar="P",
    help="Keep as many pairs as can be while at least this share of them is matched.",
)
@click.option(
    "--sample",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Labels, 0 and 1, of pairs drawn at random from the shards, in the form of the trusted "
    "file; estimates then rest on them alone.",
)
@click.option(
    "--no-index",
    is_flag=True,
    help="Leave out the FAISS indexes; `nccleaner index` builds them later.",
)
@click.option(
    "--by",
    type=click.Choice(list(_SCORES)),
    help=f"The score that the cut-off is on.  [default: {_DEFAULT_SCORE}]",
)
@engine_option()
@shows_result
def purge(
    display: Display,
    *,
    run: Path,
    output: Path | None,
    threshold: float | None,
    keep_fraction: float | None,
    target_precision: float | None,
    sample: Path | None,
    no_index: bool,
    by: str | None,
    engine: EngineName,
) -> PurgeResult:
    """Runs the command."""
    automatic = threshold is None and keep_fraction is None and target_precision is None

    import nccleaner

    result = nccleaner.purge(
        run,
        threshold=threshold,
        by=_SCORES[by] if by else None,
        keep_fraction=keep_fraction,
        target_precision=target_precision,
        sample=sample,
        index=not no_index,
        output=output,
        engine=engine,
        reporter=display,
    )
    show_purge(display, result)
    display.heading(f"Written to {result.folder}. Next:")
    words = run_words(run, output)
    display.command(command_line("nccleaner", "report", *words))
    if no_index:
        display.command(command_line("nccleaner", "index", *words))
    display.command(command_line("nccleaner", "search", "a red car", *words))
    if automatic:
        display.command(command_line("nccleaner", "purge", *words, "--target-precision", "0.9"))
    return result
