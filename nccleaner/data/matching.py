"""Finds the pairs of a trusted file in the shards.

`TrustedRow`s and a catalog of all samples enter; `TrustedPair`s leave, and a `RowProblem` for
every row that gives none.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nccleaner.data.trusted import RowProblem, TrustedRow, TrustedTable, shown
from nccleaner.errors import TrustedError
from nccleaner.records import OK

MIN_PAIRS = 20
MIN_MATCHED = 10
FEW_PAIRS = 100

# What is known of the samples that a row names: `n_pairs` and `n_samples` that fit it, and
# `shard`, `key`, `caption`, `status` of the first of them, pairs before rejects.
_Found = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TrustedPair:
    """A pair whose label is known.

    Attributes:
        row: Number of its row in the trusted file.
        label: 1 for a matched pair, 0 for a mismatched one.
        caption: The caption that the label is about.
        shard: Name of the shard that holds the image; None where `image` does.
        key: Key of the sample that holds the image; None where `image` does.
        image: The image's own file; None where the shards hold it.
        overrides_caption: Whether `caption` differs from the sample's own, so that this is another
            pair than the one in the shards.
    """

    row: int
    label: int
    caption: str
    shard: str | None = None
    key: str | None = None
    image: Path | None = None
    overrides_caption: bool = False


@dataclass(frozen=True, slots=True)
class TrustedMatch:
    """The trusted pairs that can be used, and why the other rows cannot.

    Attributes:
        path: The trusted file.
        pairs: By row number.
        problems: By row number.
    """

    path: Path
    pairs: tuple[TrustedPair, ...]
    problems: tuple[RowProblem, ...]


def match_trusted(table: TrustedTable, catalog: pa.Table) -> TrustedMatch:
    """Finds the samples that the rows of a trusted file name.

    A row gives a pair if exactly one pair of the shards fits it. Of several rows with the same
    pair the first counts; where their labels contradict each other, none does.

    Args:
        table: The trusted file.
        catalog: One row for each sample of all shards: strings `shard`, `key`, `uid`, `url`,
            `caption` and `status`, null where a sample has none. It may hold tens of millions of
            rows, so it is only ever scanned by whole columns.
    """
    found: dict[int, _Found] = {}
    elsewhere: dict[int, _Found] = {}
    for by in ("key", "uid", "url"):
        rows = [row for row in table.rows if row.by == by]
        in_shards = [row for row in rows if row.shard is not None]
        found |= _find([row for row in rows if row.shard is None], [by], catalog)
        found |= _find(in_shards, [by, "shard"], catalog)
        elsewhere |= _find([row for row in in_shards if row.row not in found], [by], catalog)
    matched = [
        _pair(row, found[row.row]) if row.row in found else _missing(row, elsewhere.get(row.row))
        for row in table.rows
    ]
    pairs, repeats = _drop_repeats([item for item in matched if isinstance(item, TrustedPair)])
    problems = [item for item in matched if isinstance(item, RowProblem)]
    problems = sorted([*table.problems, *problems, *repeats], key=lambda problem: problem.row)
    return TrustedMatch(table.path, tuple(pairs), tuple(problems))


def check_rows(table: TrustedTable) -> None:
    """Refuses a trusted file whose rows are too few, whatever the shards hold.

    Raises:
        TrustedError: As `check_enough`.
    """
    _refuse_too_few(table.path, [row.label for row in table.rows], table.problems)


def check_enough(match: TrustedMatch) -> str:
    """Refuses too few trusted pairs, and warns of few.

    Args:
        match: The pairs that are usable in the end: without those whose image does not decode.

    Returns:
        A warning about the width of intervals below `FEW_PAIRS` pairs, otherwise "".

    Raises:
        TrustedError: Fewer than `MIN_PAIRS` pairs, or fewer than `MIN_MATCHED` labelled 1, without
            which there is nothing that a matched pair could be told by.
    """
    _refuse_too_few(match.path, [pair.label for pair in match.pairs], match.problems)
    usable = len(match.pairs)
    if usable >= FEW_PAIRS:
        return ""
    # Half of the 95 % interval of a share near one half, in the normal approximation.
    points = 100 * 1.96 * math.sqrt(0.25 / usable)
    return (
        f"{match.path}: only {usable} usable pairs, so intervals will be wide: even a share "
        f"estimated from all of them is uncertain by up to ±{points:.0f} percentage points. "
        f"{FEW_PAIRS} or more are better."
    )


def _refuse_too_few(path: Path, labels: Sequence[int], problems: Sequence[RowProblem]) -> None:
    usable, matched = len(labels), sum(labels)
    if usable < MIN_PAIRS or matched < MIN_MATCHED:
        raise TrustedError(
            f"{path}: usable pairs: {usable}, labelled 1: {matched}; needed are {MIN_PAIRS}, "
            f"{MIN_MATCHED} of them labelled 1.{_first_problem(problems)}",
            "Add pairs that somebody looked at, or mend the rows that were skipped.",
        )


def _first_problem(problems: Sequence[RowProblem]) -> str:
    if not problems:
        return ""
    first = problems[0]
    return f" Rows skipped: {len(problems)}, the first is row {first.row}: {first.reason}."


def _find(
    rows: Sequence[TrustedRow], columns: Sequence[str], catalog: pa.Table
) -> dict[int, _Found]:
    """Looks up rows in the catalog.

    Args:
        rows: Rows that name their pair by the first of `columns`.
        columns: Columns of the catalog in which a sample must agree with the row.
        catalog: All samples.

    Returns:
        What was found, by row number; rows that nothing fits are left out.
    """
    if not rows:
        return {}
    by = columns[0]
    named = {by: [row.value for row in rows], "shard": [row.shard for row in rows]}
    wanted = pa.table({name: pa.array(named[name], pa.string()) for name in columns})
    wanted = wanted.append_column("row", pa.array([row.row for row in rows], pa.int64()))

    used = list(dict.fromkeys([*columns, "shard", "key", "caption", "status"]))
    candidates = catalog.select(used).filter(pc.is_in(catalog[by], value_set=wanted[by]))
    fits = wanted.join(candidates, keys=list(columns), join_type="inner")
    fits = fits.append_column("is_pair", pc.equal(fits["status"], OK).cast(pa.int64()))
    fits = fits.sort_by([("is_pair", "descending"), ("shard", "ascending"), ("key", "ascending")])
    # Threads would make "first" a matter of luck.
    first = [(name, "first") for name in ("shard", "key", "caption", "status")]
    groups = fits.group_by("row", use_threads=False).aggregate(
        [*first, ("is_pair", "sum"), ("is_pair", "count")]
    )
    names = {f"{name}_first": name for name, _ in first}
    names |= {"is_pair_sum": "n_pairs", "is_pair_count": "n_samples"}
    groups = groups.rename_columns([names.get(name, name) for name in groups.column_names])
    return {group["row"]: group for group in groups.to_pylist()}


def _missing(row: TrustedRow, elsewhere: _Found | None) -> TrustedPair | RowProblem:
    """Decides what a row gives that names no sample of the shards, or of another shard."""
    if row.by == "image":
        # `read_trusted` lets no image without a caption pass.
        return TrustedPair(row.row, row.label, row.caption or "", image=Path(row.value))
    reason = f"{_named(row)} is in no shard"
    if elsewhere is not None:
        reason += f"; shard {shown(elsewhere['shard'])} has one"
    elif row.by == "key" and row.value.isdecimal() and not row.value.startswith("0"):
        reason += " (keys are text: has it lost leading zeros?)"
    return RowProblem(row.row, reason)


def _named(row: TrustedRow) -> str:
    named = f"{row.by} {shown(row.value)}"
    return named if row.shard is None else f"{named} in shard {shown(row.shard)}"


def _pair(row: TrustedRow, found: _Found) -> TrustedPair | RowProblem:
    """Decides what a row gives that names samples of the shards."""
    named = _named(row)
    if found["n_pairs"] == 0:
        where = f"{found['shard']}/{found['key']}"
        return RowProblem(row.row, f"{named} is no pair: {shown(where)} is {found['status']}")
    if found["n_pairs"] > 1:
        how = "name the shard too" if row.by == "key" else "name one by key and shard"
        return RowProblem(row.row, f"{named} fits {found['n_pairs']} pairs; {how}")
    own = found["caption"]
    overrides = row.caption is not None and row.caption != own.strip()
    return TrustedPair(
        row.row,
        row.label,
        row.caption if row.caption is not None and overrides else own,
        shard=found["shard"],
        key=found["key"],
        overrides_caption=overrides,
    )


def _drop_repeats(pairs: Sequence[TrustedPair]) -> tuple[list[TrustedPair], list[RowProblem]]:
    """Lets every pair count once, and none whose rows contradict each other."""
    same: dict[tuple[object, ...], list[TrustedPair]] = defaultdict(list)
    for pair in pairs:
        same[pair.shard, pair.key, pair.image, pair.caption].append(pair)
    kept, problems = [], []
    for first, *others in same.values():
        if any(pair.label != first.label for pair in others):
            rows = ", ".join(str(pair.row) for pair in (first, *others))
            reason = f"rows {rows} are about the same pair and differ in their label"
            problems += [RowProblem(pair.row, reason) for pair in (first, *others)]
        else:
            kept.append(first)
            reason = f"is about the same pair as row {first.row}"
            problems += [RowProblem(pair.row, reason) for pair in others]
    return kept, problems
