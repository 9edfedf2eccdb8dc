"""The embedded example: where it is, what it holds, and what a run found in it."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nccleaner.errors import InputError
from nccleaner.records import MISMATCHED


@dataclass(frozen=True, slots=True)
class Example:
    """What is in the example folder.

    Attributes:
        folder: The folder.
        shards: Folder of the shards.
        trusted: CSV of the trusted pairs.
        truth: CSV that says which captions were shuffled.
        pairs: Pairs in the truth.
        shuffled: Pairs among them whose caption is another's.
        looked_at: Rows of the trusted file.
    """

    folder: Path
    shards: Path
    trusted: Path
    truth: Path
    pairs: int
    shuffled: int
    looked_at: int


@dataclass(frozen=True, slots=True)
class Reject:
    """A pair that was found mismatched.

    Attributes:
        pair: Shard and key, as `00000/00000042`.
        title: What the drawing shows, by its author. nccleaner never reads it.
        caption: The caption in the shard.
    """

    pair: str
    title: str
    caption: str


def example_folder() -> Path:
    """Finds the example: inside an installed package, or beside it in a checkout.

    Raises:
        InputError: It is in neither place.
    """
    package = Path(__file__).resolve().parent
    places = (package / "example" / "clipart", package.parents[1] / "examples" / "clipart")
    for place in places:
        if (place / "shards").is_dir():
            return place
    raise InputError(
        f"The embedded example is in neither of {' and '.join(map(str, places))}.",
        "Install nccleaner again, or run the demo from a checkout.",
    )


def read_example() -> Example:
    """Counts what the example holds.

    Raises:
        InputError: It is not there.
    """
    folder = example_folder()
    truth, trusted = folder / "truth.csv", folder / "trusted.csv"
    flags = [row["mismatched"] == "1" for row in _rows(truth)]
    looked_at = sum(1 for _ in _rows(trusted))
    return Example(folder, folder / "shards", trusted, truth, len(flags), sum(flags), looked_at)


def count_rows(clean: Path) -> tuple[int, int]:
    """Counts the rows of all manifests and of all rejects in `clean`, in the files themselves."""
    import pyarrow.parquet as pq

    kept, rejected = (
        sum(pq.read_metadata(path).num_rows for path in sorted((clean / part).glob("*.parquet")))
        for part in ("manifest", "rejected")
    )
    return kept, rejected


def surest_rejects(clean: Path, count: int) -> list[Reject]:
    """The mismatched pairs with the lowest clean probability, then corrected similarity."""
    import pyarrow.parquet as pq

    columns = ["shard", "key", "title", "caption", "clean_probability", "corrected_similarity"]
    rows = [
        row
        for path in sorted((clean / "rejected").glob("*.parquet"))
        for row in pq.read_table(path, columns=[*columns, "reason"]).to_pylist()
        if row["reason"] == MISMATCHED
    ]
    rows.sort(key=lambda row: (row["clean_probability"], row["corrected_similarity"]))
    return [
        Reject(f"{row['shard']}/{row['key']}", row["title"], row["caption"]) for row in rows[:count]
    ]


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)
