"""Writes shards with known mismatches, to test a cleaner on: this one or another.

Shards enter; shards of the same kinds and names leave, in which some captions changed places, with
`truth.csv` beside them. Images and everything else keep their bytes. Equal arguments give equal
bytes.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nccleaner.data.locations import refuse_inside_input
from nccleaner.data.nearest import nearest_captions, word_vectors
from nccleaner.data.noise import (
    Indices,
    NoiseKind,
    check_noise,
    mismatched,
    permute_captions,
    share_nearest,
)
from nccleaner.data.reading import ShardReading
from nccleaner.data.rewriting import file_name, rewrite_shard
from nccleaner.errors import InputError, ShardError, UsageError
from nccleaner.files import claim_folder, replace_file
from nccleaner.records import OK, Limits, Shard

TRUTH = "truth.csv"

# Hidden, and no `.json`: img2dataset takes every JSON file among shards for one of its own.
_ARGUMENTS = ".nccleaner-corrupt"


@dataclass(frozen=True, slots=True)
class CorruptReport:
    """What was written.

    Attributes:
        pairs: Pairs in the shards; rejects are copied, and not counted.
        mismatched: Pairs among them that are mismatched now.
        truth: The CSV that says which, one row a pair: `shard`, `key`, `mismatched` (0 or 1) and
            `caption_from`, the `shard/key` whose caption it was.
        near: Share in [0, 1] of the captions moved that took the place of one of the ten most like
            them; None where likeness played no part. Below 1 no more of them could be swapped.
    """

    pairs: int
    mismatched: int
    truth: Path
    near: float | None


def corrupt_shards(
    shards: Sequence[Shard],
    out: str | Path,
    *,
    ratio: float,
    seed: int,
    kind: NoiseKind,
    category_column: str | None,
    keep: Collection[tuple[str, str]],
    limits: Limits,
    progress: Callable[[int], None],
) -> CorruptReport:
    """Writes `shards` again with captions exchanged between a share of the pairs.

    Images are the same where their bytes are. The shards are read twice; only captions and the
    digests of images stay in memory. After an interruption the same call goes on where it stopped.

    Args:
        shards: What to read, as `find_shards` returns it. Nothing is written near it.
        out: A local folder that is missing, empty, or left by the same call.
        ratio: Share of the pairs, those in `keep` left out of the count, that take part.
        seed: The same seed gives the same bytes.
        kind: How captions move; see `permute_captions`. For `similar`, captions are alike by
            their words (`word_vectors`).
        category_column: The shards' own column with the category of a pair, for `same-category`
            and only for that; pairs without a value are a category too.
        keep: Shard and key of pairs that keep their caption.
        limits: What a sample may cost; a sample beyond them is a reject and stays as it is.
        progress: Called with the number of pairs of a shard twice: when it is read, when written.

    Raises:
        UsageError: `out` is in a folder that holds shards, `ratio` or `kind` is none, or the kind
            and the column of categories do not go together.
        InputError: `out` holds something else, or a shard has no such column.
        ShardError: A shard is damaged: what is lost has no known truth.
    """
    out = Path(out)
    check_noise(ratio, kind)
    if (kind == "same-category") != (category_column is not None):
        raise UsageError(
            "Noise of the kind same-category and a column of categories need each other.",
            "Give --kind same-category with --category-column, or neither.",
        )
    refuse_inside_input(shards, out)
    noise = {"ratio": ratio, "seed": seed, "kind": kind, "category_column": category_column}
    claim_folder(out, _ARGUMENTS, _describe(noise, shards, keep, limits))

    pairs = _Pairs()
    for shard in shards:
        progress(pairs.add(shard, limits, category_column))
    caption_from, near = _move_captions(pairs, keep, ratio=ratio, seed=seed, kind=kind)
    for shard in shards:
        if not (out / file_name(shard.url)).exists():
            rewrite_shard(shard, out, captions=pairs.moved_to(shard, caption_from))
        progress(len(pairs.of_shard[shard.name]))
    wrong = mismatched(caption_from, pairs.images, pairs.captions)
    _write_truth(out / TRUTH, pairs.names, caption_from, wrong)
    return CorruptReport(len(wrong), int(wrong.sum()), out / TRUTH, near)


@dataclass(slots=True)
class _Pairs:
    """The pairs of all shards without their images, in the order of reading.

    Attributes:
        names: Shard and key.
        captions: As they were.
        images: SHA-256 of the image bytes.
        categories: What the column of categories says, as text; none where none was asked for.
        of_shard: The indices of each shard's pairs, by its name.
    """

    names: list[tuple[str, str]] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    of_shard: dict[str, range] = field(default_factory=dict)

    def add(self, shard: Shard, limits: Limits, category_column: str | None) -> int:
        """Reads a shard and returns how many pairs it holds."""
        first = len(self.names)
        reading = ShardReading(shard, limits=limits)
        rows = []
        for row, sample in enumerate(reading):
            if sample.status == OK and sample.image is not None and sample.caption is not None:
                rows.append(row)
                self.names.append((sample.shard, sample.key))
                self.captions.append(sample.caption)
                self.images.append(hashlib.sha256(sample.image).digest())
        if reading.problem:
            raise ShardError(
                f"{shard.url} is damaged: {reading.problem}.",
                "Leave it out, or write it again; known mismatches need whole shards.",
            )
        if category_column is not None:
            self.categories += _categories(shard, reading.metadata(), category_column, rows)
        self.of_shard[shard.name] = range(first, len(self.names))
        return len(rows)

    def moved_to(self, shard: Shard, caption_from: Indices) -> dict[str, str]:
        """The new captions of the shard's pairs that get one, by key."""
        return {
            self.names[i][1]: self.captions[caption_from[i]]
            for i in self.of_shard[shard.name]
            if caption_from[i] != i
        }


def _move_captions(
    pairs: _Pairs,
    keep: Collection[tuple[str, str]],
    *,
    ratio: float,
    seed: int,
    kind: NoiseKind,
) -> tuple[Indices, float | None]:
    """Permutes the captions of pairs not in `keep`; also the share that moved to a near one."""
    free = np.flatnonzero([name not in keep for name in pairs.names])
    images, captions = [pairs.images[i] for i in free], [pairs.captions[i] for i in free]
    nearest = None
    if kind == "similar":
        nearest = nearest_captions(word_vectors(captions), image_ids=images, captions=captions)
    moved = permute_captions(
        images,
        ratio=ratio,
        seed=seed,
        kind=kind,
        nearest=nearest,
        categories=[pairs.categories[i] for i in free] if kind == "same-category" else None,
    )
    caption_from = np.arange(len(pairs.names), dtype=np.int64)
    caption_from[free] = free[moved]
    return caption_from, None if nearest is None else share_nearest(moved, nearest)


def _categories(shard: Shard, columns: pa.Table, name: str, rows: Sequence[int]) -> list[str]:
    if name not in columns.column_names:
        raise InputError(
            f"{shard.url} has no column {name!r} of categories; it has "
            f"{', '.join(columns.column_names)}.",
            "Name one of those.",
        )
    return [str(value) for value in columns[name].take(pa.array(rows, pa.int64())).to_pylist()]


def _describe(
    noise: Mapping[str, object],
    shards: Sequence[Shard],
    keep: Collection[tuple[str, str]],
    limits: Limits,
) -> str:
    """All that decides what is written, as text."""
    arguments = {
        **noise,
        "keep": hashlib.sha256(json.dumps(sorted(keep)).encode()).hexdigest(),
        "limits": asdict(limits),
        "shards": [asdict(shard) for shard in shards],
    }
    return json.dumps(arguments, indent=1) + "\n"


def _write_truth(
    path: Path,
    names: Sequence[tuple[str, str]],
    caption_from: Indices,
    wrong: npt.NDArray[np.bool_],
) -> None:
    with (
        replace_file(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["shard", "key", "mismatched", "caption_from"])
        for (shard, key), source, flag in zip(names, caption_from, wrong, strict=True):
            writer.writerow([shard, key, int(flag), "/".join(names[source])])
