"""`nccleaner download`: fetches the images of a list, as shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nccleaner.data.downloading import (
    IMAGE_SIZE_PX,
    RETRIES,
    SAMPLES_PER_SHARD,
    THREADS,
    TIMEOUT_S,
)
from nccleaner_cli.command import Command, shows_result
from nccleaner_cli.console import Display
from nccleaner_cli.results import show_reasons
from nccleaner_cli.text import command_line, duration, quantity

if TYPE_CHECKING:
    from nccleaner.pipeline.results import DownloadResult

_HELP = """Fetches the images that URLS lists, with their captions, into webdataset shards in the
folder OUT, by img2dataset.

URLS is a CSV, TSV, Parquet, JSON or JSON lines file, or a folder of such files. The columns are
found by their names: url, URL, image_url; caption, TEXT, alt_text and the like. Other columns are
passed on. The same command goes on where it was interrupted."""

_MISSING = {
    "not_found": "not found (HTTP 404, 410)",
    "access_denied": "access denied (HTTP 401, 403)",
    "too_many_requests": "too many requests (HTTP 429)",
    "server_error": "the server failed (HTTP 5xx)",
    "other_http_error": "another HTTP error",
    "forbidden_by_site": "the site forbids it (X-Robots-Tag)",
    "no_answer_in_time": "no answer in time",
    "unknown_host": "no such host",
    "bad_certificate": "no valid certificate",
    "connection_failed": "the connection failed",
    "not_a_url": "not a URL",
    "not_an_image": "not an image",
    "other": "another reason",
    "lost_by_img2dataset": "img2dataset failed on it",
}

_POSITIVE = click.IntRange(min=1)


@click.command(
    "download",
    cls=Command,
    help=_HELP,
    examples=[
        "nccleaner download urls.csv shards/",
        "nccleaner download laion/ shards/ --url-column URL --caption-column TEXT",
    ],
    then="`nccleaner fit shards/ --meta trusted.csv`, with pairs that you looked at.",
)
@click.argument("urls", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--url-column", metavar="NAME", help="The column of URLs, if it has another name.")
@click.option(
    "--caption-column", metavar="NAME", help="The column of captions, if it has another name."
)
@click.option(
    "--image-size",
    "image_size_px",
    type=_POSITIVE,
    default=IMAGE_SIZE_PX,
    show_default=True,
    help="Pixels of the shorter side; larger images are made smaller, in their ratio.",
)
@click.option(
    "--samples-per-shard",
    type=_POSITIVE,
    default=SAMPLES_PER_SHARD,
    show_default=True,
    help="Rows of the list in a shard.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=_POSITIVE,
    default=TIMEOUT_S,
    show_default=True,
    help="Seconds without an answer after which a request is given up.",
)
@click.option(
    "--retries",
    type=click.IntRange(min=0),
    default=RETRIES,
    show_default=True,
    help="Further requests where one failed.",
)
@click.option(
    "--threads",
    type=_POSITIVE,
    default=THREADS,
    show_default=True,
    help="Requests at a time, for each core.",
)
@shows_result
def download(
    display: Display,
    *,
    urls: Path,
    out: Path,
    url_column: str | None,
    caption_column: str | None,
    image_size_px: int,
    samples_per_shard: int,
    timeout_s: int,
    retries: int,
    threads: int,
) -> DownloadResult:
    """Runs the command."""
    import nccleaner

    result = nccleaner.download(
        urls,
        out,
        url_column=url_column,
        caption_column=caption_column,
        image_size_px=image_size_px,
        samples_per_shard=samples_per_shard,
        timeout_s=timeout_s,
        retries=retries,
        threads=threads,
        reporter=display,
    )
    _show(display, result)
    display.heading(f"Written to {result.folder}. Next:")
    display.command(command_line("nccleaner", "fit", out, "--meta", "trusted.csv"))
    return result


def _show(display: Display, result: DownloadResult) -> None:
    report = result.report
    display.heading(
        f"Downloaded {report.images:,} of {quantity(report.rows, 'image')} into "
        f"{quantity(report.shards, 'shard')}"
    )
    if report.missing:
        missing = {_MISSING[reason]: count for reason, count in report.missing.items()}
        show_reasons(display, "Missing because", missing, report.rows)
        display.blank()
    display.facts({"Time": duration(result.seconds)})
