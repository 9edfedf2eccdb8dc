"""Small shards for tests, in the layouts that img2dataset writes, and tars of anything.

rows = make_rows(3, shard_id=7)                     # keys 000070000, 000070001, 000070002
write_webdataset_shard(folder, "00007", rows)       # 00007.tar, 00007.parquet, 00007_stats.json
write_parquet_shard(folder, "00007", rows)          # 00007.parquet with a column `jpg`
write_files_shard(folder, "00007", rows)            # 00007/, 00007.parquet, 00007_stats.json
(folder / "plain.tar").write_bytes(tar_bytes([("a.jpg", jpeg()), ("a.txt", b"a caption")]))
with serve(folder) as url:                          # http://127.0.0.1:PORT
"""

from __future__ import annotations

import io
import json
import tarfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from nccleaner.data.writing import DOWNLOAD_SCHEMA
from nccleaner.records import Limits

# Small enough that a test can exceed each without effort.
LIMITS = Limits(
    max_image_pixels=10**6, max_caption_chars=100, decode_timeout_s=5, max_member_bytes=20_000
)

COLORS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 220)}
SHAPES = ("square", "circle", "triangle")


@dataclass(frozen=True)
class Row:
    """One download: a sample with its image, or without one a download that failed."""

    key: str
    caption: str | None
    image: bytes | None
    error: str = "HTTP Error 404: Not Found"

    @property
    def fields(self) -> dict[str, Any]:
        """img2dataset's fields about it, in the Parquet and in the JSON."""
        done = self.image is not None
        return {
            "caption": self.caption,
            "url": f"http://example.org/{self.key}.jpg",
            "key": self.key,
            "status": "success" if done else "failed_to_download",
            "error_message": None if done else self.error,
            "width": 32 if done else None,
            "height": 32 if done else None,
            "original_width": 64 if done else None,
            "original_height": 64 if done else None,
            "exif": "{}" if done else None,
            "sha256": "0" * 64 if done else None,
        }


def jpeg(color: str = "red", shape: str = "square", *, size_px: int = 32) -> bytes:
    """A drawing of a shape on white, as JPEG."""
    image = Image.new("RGB", (size_px, size_px), "white")
    draw = ImageDraw.Draw(image)
    low, high = size_px // 4, size_px - size_px // 4
    if shape == "circle":
        draw.ellipse((low, low, high, high), fill=COLORS[color])
    elif shape == "triangle":
        draw.polygon([(low, high), (high, high), (size_px // 2, low)], fill=COLORS[color])
    else:
        draw.rectangle((low, low, high, high), fill=COLORS[color])
    data = io.BytesIO()
    image.save(data, "JPEG")
    return data.getvalue()


def make_rows(count: int, *, shard_id: int = 0) -> list[Row]:
    """Successful downloads of drawings, with captions that fit them and differ by their number."""
    rows = []
    for number in range(count):
        color = tuple(COLORS)[number % len(COLORS)]
        shape = SHAPES[number // len(COLORS) % len(SHAPES)]
        key = f"{shard_id:05d}{number:04d}"
        rows.append(Row(key, f"a {color} {shape}, number {number}", jpeg(color, shape)))
    return rows


def row_members(row: Row) -> list[tuple[str, bytes]]:
    """The members that img2dataset writes for a successful download."""
    if row.image is None:
        return []
    return [
        (f"{row.key}.jpg", row.image),
        (f"{row.key}.txt", (row.caption or "").encode()),
        (f"{row.key}.json", json.dumps(row.fields).encode()),
    ]


def tar_bytes(members: Iterable[tuple[str | tarfile.TarInfo, bytes]]) -> bytes:
    """A tar of members in the order given; a `TarInfo` instead of a name for links and such."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in members:
            header = tarfile.TarInfo(name) if isinstance(name, str) else name
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return data.getvalue()


def write_sidecar(folder: Path, name: str, rows: Sequence[Row]) -> None:
    """Writes `NAME.parquet`, without images, and `NAME_stats.json`."""
    table = pa.Table.from_pylist([row.fields for row in rows], DOWNLOAD_SCHEMA)
    pq.write_table(table, folder / f"{name}.parquet")
    successes = sum(row.image is not None for row in rows)
    stats = {"count": len(rows), "successes": successes}
    stats |= {"failed_to_download": len(rows) - successes, "failed_to_resize": 0}
    (folder / f"{name}_stats.json").write_text(json.dumps(stats))


def write_webdataset_shard(folder: Path, name: str, rows: Sequence[Row]) -> Path:
    """Writes a shard as img2dataset's `webdataset` output; returns the tar."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.tar"
    path.write_bytes(tar_bytes(member for row in rows for member in row_members(row)))
    write_sidecar(folder, name, rows)
    return path


def write_parquet_shard(
    folder: Path, name: str, rows: Sequence[Row], *, row_group_size: int = 100
) -> Path:
    """Writes a shard as img2dataset's `parquet` output; returns the Parquet file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.parquet"
    table = pa.Table.from_pylist([row.fields for row in rows], DOWNLOAD_SCHEMA)
    images = pa.array([row.image for row in rows], pa.binary())
    pq.write_table(table.append_column("jpg", images), path, row_group_size=row_group_size)
    return path


def write_files_shard(folder: Path, name: str, rows: Sequence[Row]) -> Path:
    """Writes a shard as img2dataset's `files` output; returns the folder of its files."""
    path = folder / name
    path.mkdir(parents=True, exist_ok=True)
    for row in rows:
        for file, content in row_members(row):
            (path / file).write_bytes(content)
    write_sidecar(folder, name, rows)
    return path


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serves a folder over HTTP on loopback; like many servers it knows no byte ranges."""
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=httpd.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}"
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Says nothing."""
