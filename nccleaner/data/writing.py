"""Samples out, as img2dataset writes them: members of a tar, its statistics, a download's columns.

Nothing in what is written depends on when, where or by whom: equal content gives equal bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, cast

import pyarrow as pa

# img2dataset's columns about a download, in its order and types.
DOWNLOAD_SCHEMA = pa.schema(
    [
        ("caption", pa.string()),
        ("url", pa.string()),
        ("key", pa.string()),
        ("status", pa.string()),
        ("error_message", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("original_width", pa.int32()),
        ("original_height", pa.int32()),
        ("exif", pa.string()),
        ("sha256", pa.string()),
    ]
)


def download_fields(
    key: str, *, url: str, image: bytes, caption: str, size_px: tuple[int, int]
) -> dict[str, object]:
    """What img2dataset says, in its Parquet and in its JSON, of an image stored as it was found.

    Args:
        key: Of the sample.
        url: Where the image came from.
        image: Encoded.
        caption: Of the image.
        size_px: Its width and height.
    """
    width, height = size_px
    return {
        "caption": caption,
        "url": url,
        "key": key,
        "status": "success",
        "error_message": None,
        "width": width,
        "height": height,
        "original_width": width,
        "original_height": height,
        "exif": "{}",
        "sha256": hashlib.sha256(image).hexdigest(),
    }


def shard_stats(successes: int) -> dict[str, object]:
    """What img2dataset counts in `_stats.json`, of a shard where nothing failed and no time passed.

    Training and resharding of DataComp read `successes`.
    """
    return {
        "count": successes,
        "successes": successes,
        "failed_to_download": 0,
        "failed_to_resize": 0,
        "duration": 0.0,
        "start_time": 0.0,
        "end_time": 0.0,
        "status_dict": {"success": successes},
    }


def sample_members(
    key: str, *, image: bytes, suffix: str, caption: str, fields: Mapping[str, object]
) -> Iterator[tuple[str, bytes]]:
    """Yields the members of one sample: the image as it is, `txt` and `json`.

    Raises:
        ValueError: A number in `fields` is not finite; JSON has no word for it.
    """
    yield f"{key}.{suffix}", image
    yield f"{key}.txt", caption.encode("utf-8")
    yield f"{key}.json", json.dumps(fields, indent=4, allow_nan=False).encode()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Writes members, a name and a content each, in their order; zipped if `path` says so."""
    with ExitStack() as stack:
        target: IO[bytes] = stack.enter_context(path.open("wb"))
        if path.suffix in (".gz", ".tgz"):
            # A gzip header names the file and the time, unless told otherwise.
            zipped = gzip.GzipFile(filename="", mode="wb", fileobj=target, mtime=0)
            target = cast("IO[bytes]", stack.enter_context(zipped))
        tar = stack.enter_context(tarfile.open(fileobj=target, mode="w", encoding="utf-8"))
        for name, content in members:
            header = tarfile.TarInfo(name)  # mtime, owner and group of a new header are zero
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
