"""The embedded example is whole, agrees with itself, and is what its script makes."""

import csv
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
CLIPART = REPOSITORY / "examples" / "clipart"
LIBRARY = Path(os.environ.get("NCC_DATA", REPOSITORY.parent / "shared" / "data")) / "openclipart"

MAX_TOTAL_BYTES = 8_000_000


def read_labels(name: str, column: str) -> dict[tuple[str, str], int]:
    with (CLIPART / name).open(newline="") as file:
        rows = [(row["shard"], row["key"], int(row[column])) for row in csv.DictReader(file)]
    labels = {(shard, key): label for shard, key, label in rows}
    assert len(labels) == len(rows), f"{name} names a pair twice"
    return labels


@pytest.fixture(scope="module")
def shards() -> dict[str, list[dict[str, Any]]]:
    paths = sorted((CLIPART / "shards").glob("*.parquet"))
    return {path.stem: pq.read_table(path).to_pylist() for path in paths}


@pytest.fixture(scope="module")
def truth() -> dict[tuple[str, str], int]:
    return read_labels("truth.csv", "mismatched")


def test_truth_has_one_row_for_every_pair(shards, truth):
    assert truth.keys() == {(name, row["key"]) for name, rows in shards.items() for row in rows}
    assert set(truth.values()) == {0, 1}


def test_three_captions_in_ten_are_mismatched(truth):
    assert sum(truth.values()) / len(truth) == pytest.approx(0.3, abs=0.001)


def test_trusted_pairs_exist_and_none_was_shuffled(truth):
    trusted = read_labels("trusted.csv", "label")
    assert sum(trusted.values()) >= 160
    assert not any(truth[pair] for pair in trusted)


def test_rows_and_statistics_agree(shards):
    for name, rows in shards.items():
        stats = json.loads((CLIPART / "shards" / f"{name}_stats.json").read_text())
        assert stats["successes"] == stats["count"] == len(rows) <= 500
        assert len({row["key"] for row in rows}) == len(rows)
        for row in rows:
            assert hashlib.sha256(row["jpg"]).hexdigest() == row["sha256"]


def test_captions_are_the_uploaders_where_the_truth_says_so(shards, truth):
    for name, rows in shards.items():
        for row in rows:
            if not truth[name, row["key"]]:
                assert row["caption"].startswith(f"{row['title']}, ")


def test_every_caption_has_a_title_and_at_least_two_keywords(shards):
    captions = [row["caption"] for rows in shards.values() for row in rows]
    assert min(caption.count(", ") for caption in captions) >= 2


def test_no_image_occurs_twice(shards):
    hashes = [row["sha256"] for rows in shards.values() for row in rows]
    assert len(set(hashes)) == len(hashes)


def test_every_image_decodes(shards):
    for rows in shards.values():
        for row in rows:
            image = Image.open(io.BytesIO(row["jpg"]))
            assert image.getcolors(maxcolors=1) is None, "blank"
            assert image.size == (row["width"], row["height"])
            assert max(image.size) <= 224


def test_the_example_stays_small():
    files = [path for path in (*CLIPART.glob("*"), *CLIPART.glob("shards/*")) if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MAX_TOTAL_BYTES


@pytest.mark.skipif(not LIBRARY.is_dir(), reason=f"needs the Open Clip Art Library in {LIBRARY}")
def test_the_script_makes_these_very_files(tmp_path):
    script = CLIPART / "build.py"
    environment = os.environ | {"NCC_DATA": str(LIBRARY.parent)}
    subprocess.run([sys.executable, script, tmp_path], env=environment, check=True)
    for made in sorted(path for path in tmp_path.rglob("*") if path.is_file()):
        committed = CLIPART / made.relative_to(tmp_path)
        if made.suffix == ".parquet":  # names the version of pyarrow that wrote it
            assert pq.read_table(made).equals(pq.read_table(committed))
        else:
            assert made.read_bytes() == committed.read_bytes(), made.name
    assert {p.name for p in (tmp_path / "shards").iterdir()} == {
        p.name for p in (CLIPART / "shards").iterdir()
    }
