"""`nccleaner export`: writes the kept pairs for the next training run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from nccleaner.output.exports.formats import SAMPLES_PER_SHARD, ExportFormat
from nccleaner_cli.command import (
    Command,
    engine_option,
    output_option,
    run_option,
    shows_result,
)
from nccleaner_cli.console import Display
from nccleaner_cli.text import command_line, duration, quantity

if TYPE_CHECKING:
    from nccleaner.pipeline.engines import EngineName
    from nccleaner.pipeline.results import ExportResult

_HELP = """Writes the pairs that `nccleaner purge` kept into the folder OUT.

\b
webdataset      tars of images, captions and scores: for open_clip,
                webdataset and Hugging Face datasets
csv             images as files, and a table of them: for open_clip
clip-retrieval  embeddings: for clip-retrieval and autofaiss
datacomp        uids.npy: for DataComp's resharder

The shards are read again and must be what they were. Where it was interrupted it goes on. To filter
the shards while training, without a copy, use `nccleaner.KeepSet` in Python."""

_OPEN_CLIP_WORKERS = 4  # its default
_PARTS = {"webdataset": "tar", "csv": "folder", "clip-retrieval": "part", "datacomp": "file"}


@click.command(
    "export",
    cls=Command,
    help=_HELP,
    examples=[
        "nccleaner export cleaned/",
        "nccleaner export cleaned/ --samples-per-shard 5000",
        "nccleaner export subset/ --format datacomp",
    ],
    then="Train on OUT; docs/export.md says how each reader opens it.",
)
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@run_option()
@output_option()
@click.option(
    "--format",
    "format_",
    type=click.Choice(get_args(ExportFormat)),
    default="webdataset",
    show_default=True,
    help="What to write.",
)
@click.option(
    "--samples-per-shard",
    type=click.IntRange(min=1),
    default=SAMPLES_PER_SHARD,
    show_default=True,
    metavar="N",
    help="Pairs in a tar, or in a folder of images.",
)
@engine_option()
@shows_result
def export(
    display: Display,
    *,
    out: Path,
    run: Path,
    output: Path | None,
    format_: ExportFormat,
    samples_per_shard: int,
    engine: EngineName,
) -> ExportResult:
    """Runs the command."""
    import nccleaner

    result = nccleaner.export(
        run,
        out,
        format=format_,
        samples_per_shard=samples_per_shard,
        output=output,
        engine=engine,
        reporter=display,
    )
    display.heading(f"Wrote {quantity(result.pairs, 'pair')} to {out}")
    parts = quantity(result.parts, _PARTS[format_])
    display.facts({"Format": f"{format_}, {parts}", "Time": duration(result.seconds)})
    if format_ == "datacomp" and result.derived_uids:
        display.warn(
            f"The shards have no uid for {quantity(result.derived_uids, 'sample')}; these were "
            "given one, which the resharder does not find there. Tars of the default format have "
            "it."
        )
    if read := _read_by_open_clip(result):
        display.heading("Next, for example:")
        trainer = ("python", "-m", "open_clip_train.main", "--model", "ViT-B-32")
        display.command(command_line(*trainer, *read))
    return result


def _read_by_open_clip(result: ExportResult) -> tuple[str, ...]:
    """The options with which open_clip reads the export; empty where it reads nothing."""
    if result.format == "csv":
        return ("--train-data", str(result.folder / "pairs.tsv"))
    if result.format != "webdataset":
        return ()
    last = f"{result.parts - 1:05d}"
    first = "0" * len(last)
    tars = str(result.folder / f"{{{first}..{last}}}.tar")
    # It refuses fewer tars than processes that read them.
    few = ("--workers", str(result.parts)) if result.parts < _OPEN_CLIP_WORKERS else ()
    return ("--train-data", tars, *few)
