"""`corrupt --trusted`: which samples keep their captions, and which rows name none."""

from __future__ import annotations

import csv

import pytest
from smallfit import Warned, write_csv

import nccleaner
from nccleaner.errors import TrustedError


def test_named_pairs_keep_their_captions_and_skipped_rows_are_told(shards, clipart, tmp_path):
    trusted = write_csv(
        tmp_path / "trusted.csv", ["key"], [(key,) for key in [*clipart.trusted, "nobody"]]
    )
    reporter = Warned()

    nccleaner.corrupt(
        shards,
        tmp_path / "out",
        ratio=1.0,
        seed=0,
        kind="random",
        trusted=trusted,
        reporter=reporter,
    )

    with (tmp_path / "out" / "truth.csv").open(newline="") as file:
        moved = {row["key"] for row in csv.DictReader(file) if row["mismatched"] == "1"}
    assert moved
    assert not moved & set(clipart.trusted)
    assert "rows skipped: 1; row " in reporter.warnings[0]
    assert "'nobody' is in no shard" in reporter.warnings[0]


def test_a_trusted_file_of_other_shards_is_refused_before_anything_is_written(shards, tmp_path):
    trusted = write_csv(tmp_path / "trusted.csv", ["key"], [(f"x{n}",) for n in range(30)])

    with pytest.raises(TrustedError, match="rows skipped: 30; row "):
        nccleaner.corrupt(
            shards, tmp_path / "out", ratio=0.5, seed=0, kind="random", trusted=trusted
        )

    assert not (tmp_path / "out").exists()
