"""`corrupt`: shards with known mismatches, to test a cleaner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from nccleaner.config import DataConfig
from nccleaner.data.corrupt import CorruptReport, corrupt_shards
from nccleaner.data.locations import find_shards
from nccleaner.data.matching import match_trusted
from nccleaner.data.noise import NoiseKind
from nccleaner.data.reading import ShardReading
from nccleaner.data.trusted import read_trusted
from nccleaner.errors import TrustedError
from nccleaner.identity import derive_uid
from nccleaner.pipeline.backbones import limits_of
from nccleaner.pipeline.reporter import Reporter, SilentReporter, shard_count
from nccleaner.records import Limits, Shard


def corrupt(
    shards: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    ratio: float,
    seed: int,
    kind: NoiseKind,
    category_column: str | None = None,
    trusted: str | Path | None = None,
    reporter: Reporter | None = None,
) -> CorruptReport:
    """Copies shards, exchanging a share of the captions, and writes the truth beside them.

    Args:
        shards: What to copy.
        out: A new or empty folder.
        ratio: Share of the pairs whose captions are permuted, in [0, 1].
        seed: The same seed gives the same bytes.
        kind: `random`, `block` (all captions of an image move together), `similar` (captions with
            like words are swapped) or `same-category` (captions stay in their category).
        category_column: The shards' own column that says which, for `same-category`.
        trusted: Pairs that a trusted file names keep their captions.
        reporter: Hears of progress.

    Raises:
        UsageError: A ratio out of range, `out` among the shards, or categories without the kind
            that needs them, or the reverse.
        ShardError: A shard is missing or damaged.
        InputError: `out` holds something else, or a shard has no such column.
        TrustedError: The trusted file cannot be used, or all of its rows name no pair.
    """
    reporter, limits = reporter or SilentReporter(), limits_of(DataConfig())
    found = find_shards(shards)
    keep = set() if trusted is None else _named(found, Path(trusted), limits, reporter)
    with reporter.stage(f"Copying {shard_count(found)}", None, "pairs read or written") as advance:
        return corrupt_shards(
            found,
            out,
            ratio=ratio,
            seed=seed,
            kind=kind,
            category_column=category_column,
            keep=keep,
            limits=limits,
            progress=advance,
        )


def _named(
    shards: Sequence[Shard], path: Path, limits: Limits, reporter: Reporter
) -> set[tuple[str, str]]:
    """The samples that a trusted file names."""
    tables = [pa.Table.from_pylist(list(_catalog(shard, limits))) for shard in shards]
    match = match_trusted(read_trusted(path), pa.concat_tables(tables, promote_options="default"))
    named = {
        (pair.shard, pair.key)
        for pair in match.pairs
        if pair.shard is not None and pair.key is not None
    }
    if match.problems:
        first = match.problems[0]
        skipped = f"{path}: rows skipped: {len(match.problems)}; row {first.row} {first.reason}."
        if not match.pairs:
            raise TrustedError(skipped, "Give the trusted file of these shards.")
        reporter.warn(skipped)
    return named


def _catalog(shard: Shard, limits: Limits) -> list[dict[str, str | None]]:
    reading = ShardReading(shard, limits=limits)
    rows: list[dict[str, str | None]] = [
        {
            "shard": shard.name,
            "key": sample.key,
            "caption": sample.caption,
            "status": sample.status,
        }
        for sample in reading
    ]
    own = reading.metadata()
    for name in ("uid", "url"):
        values = own[name].to_pylist() if name in own.column_names else [None] * len(rows)
        for row, value in zip(rows, values, strict=True):
            row[name] = value if isinstance(value, str) else None
    for row in rows:
        row["uid"] = row["uid"] or derive_uid(shard.name, str(row["key"]))
    return rows
