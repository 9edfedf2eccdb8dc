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

from nccleaner.data.locations import refuse_inside_input
from nccleaner.data.noise import (
    Indices,
    NoiseKind,
    check_noise,
    mismatched,
    permute_captions,
)
from nccleaner.data.reading import ShardReading
from nccleaner.data.rewriting import file_name, rewrite_shard
from nccleaner.errors import InputError, ShardError
from nccleaner.files import remove_leftovers, replace_file
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
    """

    pairs: int
    mismatched: int
    truth: Path


def corrupt_shards(
    shards: Sequence[Shard],
    out: str | Path,
    *,
    ratio: float,
    seed: int,
    kind: NoiseKind,
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
        kind: How captions move; see `permute_captions`.
        keep: Shard and key of pairs that keep their caption.
        limits: What a sample may cost; a sample beyond them is a reject and stays as it is.
        progress: Called with the number of pairs of a shard twice: when it is read, when written.

    Raises:
        UsageError: `out` is in a folder that holds shards, or `ratio` or `kind` is none.
        InputError: `out` holds something else.
        ShardError: A shard is damaged: what is lost has no known truth.
    """
    out = Path(out)
    check_noise(ratio, kind)
    refuse_inside_input(shards, out)
    noise = {"ratio": ratio, "seed": seed, "kind": kind}
    _claim(out, _describe(noise, shards, keep, limits))

    pairs = _Pairs()
    for shard in shards:
        progress(pairs.add(shard, limits))
    free = np.flatnonzero([name not in keep for name in pairs.names])
    caption_from = np.arange(len(pairs.names), dtype=np.int64)
    images = [pairs.images[i] for i in free]
    caption_from[free] = free[permute_captions(images, ratio=ratio, seed=seed, kind=kind)]
    for shard in shards:
        if not (out / file_name(shard.url)).exists():
            rewrite_shard(shard, out, captions=pairs.moved_to(shard, caption_from))
        progress(len(pairs.of_shard[shard.name]))
    wrong = mismatched(caption_from, pairs.images, pairs.captions)
    _write_truth(out / TRUTH, pairs.names, caption_from, wrong)
    return CorruptReport(len(wrong), int(wrong.sum()), out / TRUTH)


@dataclass(slots=True)
class _Pairs:
    """The pairs of all shards without their images, in the order of reading.

    Attributes:
        names: Shard and key.
        captions: As they were.
        images: SHA-256 of the image bytes.
        of_shard: The indices of each shard's pairs, by its name.
    """

    names: list[tuple[str, str]] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)
    of_shard: dict[str, range] = field(default_factory=dict)

    def add(self, shard: Shard, limits: Limits) -> int:
        """Reads a shard and returns how many pairs it holds."""
        first = len(self.names)
        reading = ShardReading(shard, limits=limits)
        for sample in reading:
            if sample.status == OK and sample.image is not None and sample.caption is not None:
                self.names.append((sample.shard, sample.key))
                self.captions.append(sample.caption)
                self.images.append(hashlib.sha256(sample.image).digest())
        if reading.problem:
            raise ShardError(
                f"{shard.url} is damaged: {reading.problem}.",
                "Leave it out, or write it again; known mismatches need whole shards.",
            )
        self.of_shard[shard.name] = range(first, len(self.names))
        return len(self.names) - first

    def moved_to(self, shard: Shard, caption_from: Indices) -> dict[str, str]:
        """The new captions of the shard's pairs that get one, by key."""
        return {
            self.names[i][1]: self.captions[caption_from[i]]
            for i in self.of_shard[shard.name]
            if caption_from[i] != i
        }


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


def _claim(out: Path, arguments: str) -> None:
    """Makes `out` ours, or finds that an earlier call with the same arguments did."""
    claim = out / _ARGUMENTS
    if claim.is_file() and claim.read_text(encoding="utf-8") == arguments:
        remove_leftovers(out)
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        found = "was made with other arguments" if claim.is_file() else "is not an empty folder"
        raise InputError(f"{out} {found}.", "Name a new folder, or remove this one.")
    with replace_file(claim) as temporary:
        temporary.write_text(arguments, encoding="utf-8")


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
