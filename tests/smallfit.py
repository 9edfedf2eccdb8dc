"""Settings of a fit that takes seconds, and a few hundred pairs of clip art for it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from builders import Row, write_webdataset_shard

from nccleaner.config import RunConfig
from nccleaner.pipeline.reporter import SilentReporter

CLIPART = Path(__file__).resolve().parents[1] / "examples" / "clipart"
TINY = {
    "data": {"workers": 0},
    "train": {"epochs": 2, "min_steps": 0, "warm_up": 0.5},
    "model": {"joint_width": 32, "similarity_width": 8, "meta_hidden_width": 8},
    "purify": {"references": 64, "neighbours": 10},
}


class Warned(SilentReporter):
    """Remembers warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def tiny(**sections: object) -> RunConfig:
    """Settings of a fit that takes seconds; sections given are merged into it."""
    merged = {name: dict(section) for name, section in TINY.items()}
    for name, section in sections.items():
        merged[name] = {**merged.get(name, {}), **section} if isinstance(section, dict) else section
    return RunConfig.model_validate(merged)


def read_truth() -> dict[str, int]:
    with (CLIPART / "truth.csv").open(newline="") as file:
        return {row["key"]: int(row["mismatched"]) for row in csv.DictReader(file)}


def read_trusted_keys() -> list[str]:
    with (CLIPART / "trusted.csv").open(newline="") as file:
        return [row["key"] for row in csv.DictReader(file)]


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


@dataclass(frozen=True)
class Clipart:
    """240 pairs of the example, 90 of them trusted; each trusted one is matched."""

    rows: list[Row]
    trusted: list[str]
    truth: dict[str, int]

    def matched_untrusted(self, count: int) -> list[str]:
        found = [row.key for row in self.rows if not self.truth[row.key]]
        return [key for key in found if key not in self.trusted][:count]

    def mismatched(self, count: int) -> list[str]:
        return [row.key for row in self.rows if self.truth[row.key]][:count]

    def write_shards(self, folder: Path) -> Path:
        """Writes two webdataset shards of img2dataset: 00000 with 140 pairs, 00001 with 100."""
        write_webdataset_shard(folder, "00000", self.rows[:140])
        write_webdataset_shard(folder, "00001", self.rows[140:])
        return folder

    def write_trusted(self, path: Path) -> Path:
        """Writes a trusted file: the 90 trusted pairs labelled 1, 6 mismatched ones labelled 0."""
        rows = [(key, 1) for key in self.trusted] + [(key, 0) for key in self.mismatched(6)]
        return write_csv(path, ["key", "label"], rows)


def read_clipart() -> Clipart:
    files = sorted((CLIPART / "shards").glob("*.parquet"))[:2]
    columns = ["key", "caption", "jpg"]
    table = pa.concat_tables(pq.read_table(file, columns=columns) for file in files)
    trusted = set(read_trusted_keys()[:90])
    rows, others = [], 0
    for item in table.to_pylist():
        others += item["key"] not in trusted
        if item["key"] in trusted or others <= 150:
            rows.append(Row(item["key"], item["caption"], item["jpg"]))
    keys = [row.key for row in rows if row.key in trusted]
    assert len(keys) == 90
    return Clipart(rows, keys, read_truth())
