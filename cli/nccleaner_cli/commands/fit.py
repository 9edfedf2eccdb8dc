"""`nccleaner fit`: learns which pairs are mismatched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nccleaner_cli.command import Command, engine_option, run_option, run_words, shows_result
from nccleaner_cli.console import Display
from nccleaner_cli.errors import exit_codes
from nccleaner_cli.results import show_fit
from nccleaner_cli.settings import (
    build_config,
    list_settings,
    setting_option,
    take_settings,
)
from nccleaner_cli.text import command_line

if TYPE_CHECKING:
    from nccleaner.pipeline.engines import EngineName
    from nccleaner.pipeline.results import FitResult

_HELP = """Reads SHARDS, extracts the features of images and captions, and trains on them, guided
by the pairs that you trust.

SHARDS is a folder, a glob, a brace pattern such as shards/{00000..00099}.tar, or several of them;
local, or any URL that fsspec opens. img2dataset's webdataset, parquet and files outputs are read,
and any webdataset tar with images and captions.

The trusted CSV has one row a pair: a column key, uid, url or image names it; shard, caption and
label (1 matched, 0 mismatched) are optional. A few hundred rows, each looked at, are enough.

Features are kept in the run directory: a second fit on the same shards only trains."""


def _list_settings(ctx: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    """Lists the settings as the other options make them, before any that is missing is missed."""
    if asked:
        given = dict(ctx.params)
        sources = (given.pop(name, None) for name in ("preset", "config_file", "assignments"))
        preset, file, assignments = sources
        with exit_codes(debug=False):
            config = build_config(preset, file, assignments or (), take_settings(given))
        formatter = ctx.make_formatter()
        formatter.write_dl(list_settings(config))
        click.echo(formatter.getvalue(), nl=False)
        ctx.exit()


@click.command(
    "fit",
    cls=Command,
    help=_HELP,
    examples=[
        "nccleaner fit shards/ --meta trusted.csv",
        "nccleaner fit 's3://bucket/{00000..00099}.tar' --meta trusted.csv --run laion",
        "nccleaner fit shards/ --meta trusted.csv --epochs 20 --set train.margin=0.3",
        "nccleaner fit shards/ --meta trusted.csv --preset clip",
    ],
    then="`nccleaner purge` scores every pair, drops the mismatched, and writes the rest.",
)
@click.argument("shards", nargs=-1, required=True)
@click.option(
    "--meta",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The trusted pairs: CSV, TSV or Parquet.",
)
@run_option()
@engine_option()
@click.option(
    "--preset",
    metavar="NAME",
    is_eager=True,
    help="Settings that come with nccleaner: small (for CPUs), clip (image and text towers by "
    "open_clip) or paper (as published). --config and options go over them.",
)
@setting_option("--seed", "seed")
@setting_option("--image-encoder", "encoders.image")
@setting_option("--image-weights", "encoders.image_weights")
@setting_option("--text-encoder", "encoders.text")
@setting_option("--device", "encoders.device")
@setting_option("--workers", "data.workers")
@setting_option("--max-pairs", "train.max_pairs")
@setting_option("--epochs", "train.epochs")
@setting_option("--on-bad-shard", "data.on_bad_shard")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    is_eager=True,
    metavar="NAME=VALUE",
    help="Any other setting, for example train.margin=0.3; may be repeated.",
)
@click.option(
    "--settings",
    is_flag=True,
    expose_value=False,
    callback=_list_settings,
    help="List the settings that --set and --config take, as the other options make them, and "
    "exit.",
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    is_eager=True,
    help="Settings from a JSON or TOML file; options go over it.",
)
@shows_result
def fit(
    display: Display,
    *,
    shards: tuple[str, ...],
    meta: Path,
    run: Path,
    engine: EngineName,
    preset: str | None,
    assignments: tuple[str, ...],
    config_file: Path | None,
    **options: Any,
) -> FitResult:
    """Runs the command."""
    config = build_config(preset, config_file, assignments, take_settings(options))

    import nccleaner

    result = nccleaner.fit(
        shards, meta=meta, run=run, config=config, engine=engine, reporter=display
    )
    show_fit(display, result)
    display.heading(f"Saved in {run}. Next:")
    display.command(command_line("nccleaner", "purge", *run_words(run)))
    return result
