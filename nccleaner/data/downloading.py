"""Runs img2dataset: a list of URLs in, shards out, and in our words what could not be had.

It runs in a process group of its own: it starts processes, takes over signals and prints, which
goes to a file. What is done it does not do again: a shard is done when its `_stats.json` is there.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nccleaner.errors import MissingDependencyError, NccleanerError

if TYPE_CHECKING:
    from nccleaner.data.url_lists import UrlList

IMAGE_SIZE_PX = 256
SAMPLES_PER_SHARD = 10_000
TIMEOUT_S = 10
RETRIES = 2
THREADS = 64

LOG_FILE = "img2dataset.log"
_STATS = "_stats.json"
_POLL_S = 0.5
_SCRIPT = "import json, sys, img2dataset; img2dataset.download(**json.loads(sys.argv[1]))"

# Why an image is missing, by what img2dataset and urllib say. The first that is found counts.
_CAUSES = {
    "not_found": r"HTTP Error (404|410)",
    "access_denied": r"HTTP Error (401|402|403|451)",
    "too_many_requests": r"HTTP Error 429",
    "server_error": r"HTTP Error 5\d\d",
    "other_http_error": r"HTTP Error",
    "forbidden_by_site": r"X-Robots-Tag",
    "no_answer_in_time": r"timed out|timeout",
    "not_a_url": r"unknown url type|no host given|nonnumeric port|URL can't contain",
    "unknown_host": r"Name or service not known|getaddrinfo|name resolution|nodename nor servname",
    "bad_certificate": r"SSL|certificate",
    "connection_failed": r"urlopen error|Connection|Remote end closed|IncompleteRead|Errno",
    "not_an_image": r"decod|Image|cv2|OpenCV|imread",
}
_OTHER, _LOST = "other", "lost_by_img2dataset"


@dataclass(frozen=True, slots=True)
class DownloadReport:
    """What came of a list.

    Attributes:
        shards: Shards written.
        rows: Rows of the list.
        images: Images downloaded.
        missing: The others, counted by reason.
    """

    shards: int
    rows: int
    images: int
    missing: Mapping[str, int]


def download_shards(
    urls: UrlList,
    out: Path,
    *,
    image_size_px: int,
    samples_per_shard: int,
    timeout_s: int,
    retries: int,
    threads: int,
    progress: Callable[[int], None],
) -> DownloadReport:
    """Downloads the images of a list into webdataset shards, going on where an earlier call ended.

    Larger images are made smaller, in their own ratio; JPEGs that are small enough keep their
    bytes. Sites that forbid the use of an image by `X-Robots-Tag` are heeded.

    Args:
        urls: The list.
        out: The folder of the shards.
        image_size_px: Shorter side of an image, at most.
        samples_per_shard: Rows in a shard.
        timeout_s: Seconds without an answer after which a request is given up.
        retries: Further requests where one failed.
        threads: Requests at a time, in each of as many processes as there are cores.
        progress: Hears of rows that are done.

    Raises:
        MissingDependencyError: img2dataset is not installed.
        NccleanerError: It failed, or left shards out.
    """
    if find_spec("img2dataset") is None:
        raise MissingDependencyError(
            "Downloading needs img2dataset, which is not installed.",
            "pip install 'nccleaner[download]'",
        )
    from loky import cpu_count

    arguments = {
        "url_list": str(urls.path.absolute()),
        "input_format": urls.format,
        "url_col": urls.url,
        "caption_col": urls.caption,
        "save_additional_columns": list(urls.others) or None,
        "output_folder": str(out.absolute()),
        "output_format": "webdataset",
        "number_sample_per_shard": samples_per_shard,
        "image_size": image_size_px,
        "resize_mode": "keep_ratio",
        "resize_only_if_bigger": True,
        "skip_reencode": True,
        "timeout": timeout_s,
        "retries": retries,
        "processes_count": cpu_count(),
        "thread_count": threads,
        "incremental_mode": "incremental",
    }
    log = out / LOG_FILE
    expected = sum(-(-rows // samples_per_shard) for rows in urls.rows)
    code = 0
    if len(_read_stats(out)) < expected:
        code = _run(arguments, log, out, progress)
    report = _report(out, rows=sum(urls.rows))
    if code or report.shards < expected:
        raise NccleanerError(
            f"img2dataset wrote {report.shards} of {expected} shards: {_last_line(log)}",
            f"See {log}, and run the same command again: shards that are done stay.",
        )
    return report


def _run(
    arguments: Mapping[str, object], log: Path, out: Path, progress: Callable[[int], None]
) -> int:
    """Runs img2dataset to its end; returns its exit code."""
    code, done = None, 0
    with _running(arguments, log) as process:
        while code is None:
            time.sleep(_POLL_S)
            code = process.poll()
            now = sum(stats["count"] for stats in _read_stats(out))
            progress(now - done)
            done = now
    return code


@contextmanager
def _running(arguments: Mapping[str, object], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs img2dataset; when the block is left it is gone, with all its processes."""
    command = [sys.executable, "-c", _SCRIPT, json.dumps(arguments)]
    # albumentations, which it resizes with, would ask the network for a newer version of itself.
    # Python would look for modules in the current folder first.
    environment = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1", "PYTHONSAFEPATH": "1"}
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and script
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        # The group goes even where its leader is gone: a killed one leaves its workers behind.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _read_stats(out: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted(out.glob(f"*{_STATS}")):
        try:
            found.append(json.loads(path.read_text(encoding="utf-8")))
        except ValueError:
            continue  # it is being written
    return found


def _report(out: Path, *, rows: int) -> DownloadReport:
    stats = _read_stats(out)
    missing: Counter[str] = Counter()
    for shard in stats:
        for message, count in shard["status_dict"].items():
            if message != "success":
                missing[_cause(message)] += count
    images = sum(shard["successes"] for shard in stats)
    lost = sum(shard["count"] for shard in stats) - images - missing.total()
    if lost > 0:
        missing[_LOST] = lost
    return DownloadReport(len(stats), rows, images, dict(missing.most_common()))


def _cause(message: str) -> str:
    found = (name for name, words in _CAUSES.items() if re.search(words, message, re.IGNORECASE))
    return next(found, _OTHER)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
