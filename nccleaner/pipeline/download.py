"""`download`: a list of URLs and captions to shards."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

from nccleaner.data.downloading import (
    IMAGE_SIZE_PX,
    RETRIES,
    SAMPLES_PER_SHARD,
    THREADS,
    TIMEOUT_S,
    download_shards,
)
from nccleaner.data.url_lists import read_url_list
from nccleaner.errors import InputError, UsageError
from nccleaner.files import claim_folder
from nccleaner.pipeline.reporter import Reporter, SilentReporter
from nccleaner.pipeline.results import DownloadResult

# No `.json`: img2dataset takes every such file in its folder for its own.
_CLAIM = ".nccleaner-download"


def download(
    urls: str | Path,
    out: str | Path,
    *,
    url_column: str | None = None,
    caption_column: str | None = None,
    image_size_px: int = IMAGE_SIZE_PX,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    timeout_s: int = TIMEOUT_S,
    retries: int = RETRIES,
    threads: int = THREADS,
    reporter: Reporter | None = None,
) -> DownloadResult:
    """Downloads the images of a list into webdataset shards, by img2dataset.

    Called again it goes on where it ended: shards that are done stay.

    Args:
        urls: CSV, TSV, Parquet, JSON or JSON lines, or a folder of such files.
        out: A new or empty folder, or that of an earlier call with the same arguments.
        url_column: Where the URLs are; None: found by name.
        caption_column: Where the captions are; None: found by name.
        image_size_px: Shorter side of an image, at most.
        samples_per_shard: Rows of the list in a shard.
        timeout_s: Seconds without an answer after which a request is given up.
        retries: Further requests where one failed.
        threads: Requests at a time, in each of as many processes as there are cores.
        reporter: Hears of progress.

    Raises:
        UsageError: A number below 1, or retries below 0.
        InputError: The list cannot be used, or `out` holds something else.
        MissingDependencyError: img2dataset is not installed.
        NccleanerError: img2dataset failed.
    """
    start = time.monotonic()
    if min(image_size_px, samples_per_shard, timeout_s, threads) < 1 or retries < 0:
        raise UsageError(
            "Sizes, samples, seconds and threads are 1 or more, and retries 0 or more.",
            "Leave the option out to get its default.",
        )
    reporter, urls, out = reporter or SilentReporter(), Path(urls), Path(out)
    found = read_url_list(urls, url_column=url_column, caption_column=caption_column)
    rows = sum(found.rows)
    if not rows:
        raise InputError(f"{urls} has no rows.", "Name another list.")
    arguments = {
        **asdict(found),
        "path": str(urls.absolute()),
        "image_size_px": image_size_px,
        "samples_per_shard": samples_per_shard,
    }
    claim_folder(out, _CLAIM, json.dumps(arguments, indent=2) + "\n")
    reporter.note(f"URLs from column {found.url!r}, captions from column {found.caption!r}.")
    with reporter.stage("Downloading", rows, "images") as advance:
        report = download_shards(
            found,
            out,
            image_size_px=image_size_px,
            samples_per_shard=samples_per_shard,
            timeout_s=timeout_s,
            retries=retries,
            threads=threads,
            progress=advance,
        )
    return DownloadResult(folder=out, report=report, seconds=time.monotonic() - start)
