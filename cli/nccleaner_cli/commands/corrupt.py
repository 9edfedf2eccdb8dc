"""`nccleaner corrupt`: writes shards with known mismatches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from nccleaner.data.noise import NoiseKind
from nccleaner_cli.command import Command, shows_result
from nccleaner_cli.console import Display
from nccleaner_cli.text import command_line, percent, quantity

if TYPE_CHECKING:
    from nccleaner.data.corrupt import CorruptReport

_HELP = """Writes SHARDS again into the folder OUT, in which a share of the captions changed places,
with truth.csv beside them: to test a cleaner, this one or another.

Images and everything else keep their bytes. The same arguments give the same bytes."""


@click.command(
    "corrupt",
    cls=Command,
    help=_HELP,
    examples=[
        "nccleaner corrupt shards/ noisy/ --ratio 0.4 --trusted trusted.csv",
        "nccleaner fit noisy/ --meta trusted.csv --run test",
        "nccleaner evaluate --truth noisy/truth.csv --run test",
    ],
    then="Fit on OUT with pairs you trust, then compare with OUT/truth.csv, as above.",
)
@click.argument("shards", nargs=-1, required=True)
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--ratio",
    type=click.FloatRange(0, 1),
    default=0.4,
    show_default=True,
    help="Share of the pairs whose captions are exchanged.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Decides which, and what they get."
)
@click.option(
    "--kind",
    type=click.Choice(get_args(NoiseKind)),
    default="random",
    show_default=True,
    help="random: each pair by itself; block: all captions of an image move together; similar: "
    "captions that share words are swapped; same-category: captions stay in their category.",
)
@click.option(
    "--category-column",
    metavar="NAME",
    help="The shards' own column of categories, for --kind same-category.",
)
@click.option(
    "--trusted",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Trusted pairs, as for `nccleaner fit --meta`: they keep their captions.",
)
@shows_result
def corrupt(
    display: Display,
    *,
    shards: tuple[str, ...],
    out: Path,
    ratio: float,
    seed: int,
    kind: NoiseKind,
    category_column: str | None,
    trusted: Path | None,
) -> CorruptReport:
    """Runs the command."""
    import nccleaner

    report = nccleaner.corrupt(
        shards,
        out,
        ratio=ratio,
        seed=seed,
        kind=kind,
        category_column=category_column,
        trusted=trusted,
        reporter=display,
    )
    share = f" ({percent(report.mismatched / report.pairs)})" if report.pairs else ""
    display.heading(
        f"Wrote {quantity(report.pairs, 'pair')} to {out}; {report.mismatched:,}{share} of them "
        f"are mismatched, as {report.truth} says."
    )
    if report.near is not None:
        display.paragraph(
            f"{percent(report.near)} of the captions that moved took the place of one of the ten "
            "most like them."
        )
    display.paragraph("Next:")
    meta = trusted or "trusted.csv"
    display.command(command_line("nccleaner", "fit", out, "--meta", meta, "--run", "test"))
    display.command(command_line("nccleaner", "evaluate", "--truth", report.truth, "--run", "test"))
    return report
