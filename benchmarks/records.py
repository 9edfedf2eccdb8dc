"""What was measured: one file a method and configuration, and one tidy CSV of all of them.

A file a figure's owner writes whole, so that an interrupted benchmark goes on where it stopped and
two processes may share a work folder; the CSV is made anew from the files each time.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nccleaner.files import replace_file, write_json

# What was measured by what method where, by column name; what is undefined is None.
Record = Mapping[str, Any]

_UNSAFE = re.compile(r"[^A-Za-z0-9.+=_-]+")


@dataclass(frozen=True, slots=True)
class Results:
    """The figures of a benchmark.

    Attributes:
        folder: Holds `CONFIGURATION/METHOD.json`.
    """

    folder: Path

    def has(self, configuration: str, method: str) -> bool:
        """Tells whether a method was measured in a configuration."""
        return self._path(configuration, method).exists()

    def add(self, configuration: str, method: str, record: Record) -> None:
        """Keeps what was measured."""
        path = self._path(configuration, method)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(dict(record), path)

    def all(self) -> list[Record]:
        """Returns everything that was measured, by configuration and method."""
        paths = sorted(self.folder.glob("*/*.json"))
        return [json.loads(path.read_text(encoding="utf-8")) for path in paths]

    def _path(self, configuration: str, method: str) -> Path:
        return self.folder / configuration / f"{_UNSAFE.sub('_', method)}.json"


def write_csv(records: Iterable[Record], path: Path) -> None:
    """Writes a row a record, with every column that any of them has."""
    rows = list(records)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with replace_file(path) as new, new.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
