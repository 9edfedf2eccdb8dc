"""Runs the real img2dataset against a web server on loopback and reads what it wrote."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import LIMITS, jpeg, serve

from nccleaner.data.locations import find_shards
from nccleaner.data.reading import ShardReading
from nccleaner.data.writing import DOWNLOAD_SCHEMA, shard_stats
from nccleaner.records import EMPTY_CAPTION, MISSING_IMAGE, OK, Sample

pytestmark = pytest.mark.slow

CAPTIONS = {
    "0.jpg": "a red square",
    "1.jpg": 'मराठी, "quoted"\nand on two lines',
    "2.jpg": "",
    "gone.jpg": "a page that is gone",
    "broken.jpg": "an image that is none",
    "3.jpg": "🟦",
    "4.jpg": "another shard",
}
FORMATS = ("webdataset", "parquet", "files")

# img2dataset warns a lot and forks: it runs on its own.
SCRIPT = """
import json, sys
from img2dataset import download
if __name__ == "__main__":
    for arguments in json.loads(sys.argv[1]):
        download(**arguments)
"""


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with img2dataset's output in each of its formats, in folders of their names."""
    site = tmp_path_factory.mktemp("site")
    for number, name in enumerate(name for name in CAPTIONS if name[0].isdigit()):
        (site / name).write_bytes(jpeg(("red", "green", "blue")[number % 3], size_px=300))
    (site / "broken.jpg").write_bytes(b"this is no image")
    folder = tmp_path_factory.mktemp("img2dataset")
    arguments = [
        {
            "url_list": str(folder / "urls.csv"),
            "input_format": "csv",
            "url_col": "URL",
            "caption_col": "TEXT",
            "save_additional_columns": ["rating"],
            "output_folder": str(folder / output_format),
            "output_format": output_format,
            "image_size": 64,
            "processes_count": 1,
            "thread_count": 2,
            "number_sample_per_shard": 6,
            "disallowed_header_directives": [],
        }
        for output_format in FORMATS
    ]
    with serve(site) as server:
        with (folder / "urls.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["URL", "TEXT", "rating"])
            writer.writerows([f"{server}/{name}", text, 0.5] for name, text in CAPTIONS.items())
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, json.dumps(arguments)],
            env={**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("output_format", FORMATS)
def test_every_download_is_a_pair_or_a_reject(downloaded: Path, output_format: str) -> None:
    shards = find_shards(downloaded / output_format)
    assert [(s.name, s.kind) for s in shards] == [
        ("00000", output_format),
        ("00001", output_format),
    ]
    assert all(shard.stats_url for shard in shards)

    samples: dict[str, Sample] = {}
    tables: list[pa.Table] = []
    for shard in shards:
        reading = ShardReading(shard, limits=LIMITS)
        samples |= {sample.key: sample for sample in reading}
        tables.append(reading.metadata())
        assert reading.problem == ""
        stored = pq.read_table(downloaded / output_format / f"{shard.name}.parquet")
        if output_format == "parquet":
            stored = stored.drop_columns("jpg")
        by_key = {row["key"]: row for row in stored.to_pylist()}
        assert tables[-1].schema == stored.schema
        assert [by_key[row["key"]] for row in tables[-1].to_pylist()] == tables[-1].to_pylist()

    rows = {row["url"].rpartition("/")[2]: row for t in tables for row in t.to_pylist()}
    found = {name: samples[row["key"]] for name, row in rows.items()}
    assert {name: sample.status for name, sample in found.items()} == {
        **dict.fromkeys(CAPTIONS, OK),
        "2.jpg": EMPTY_CAPTION,
        "gone.jpg": MISSING_IMAGE,
        "broken.jpg": MISSING_IMAGE,
    }
    assert {name: s.caption for name, s in found.items() if s.status == OK} == {
        name: CAPTIONS[name] for name, sample in found.items() if sample.status == OK
    }
    assert found["gone.jpg"].detail == "failed_to_download: HTTP Error 404: File not found"
    assert found["broken.jpg"].detail.startswith("failed_to_resize: ")
    assert all(s.image is None or s.image[:2] == b"\xff\xd8" for s in found.values())
    assert {float(row["rating"]) for row in rows.values()} == {0.5}


def test_what_we_write_about_downloads_is_what_it_writes(downloaded: Path) -> None:
    schema = pq.read_schema(downloaded / "webdataset" / "00000.parquet").remove_metadata()
    assert schema.remove(schema.get_field_index("rating")) == DOWNLOAD_SCHEMA
    stats = json.loads((downloaded / "webdataset" / "00000_stats.json").read_text())
    assert list(stats) == list(shard_stats(1))
