"""A decision at work: which samples of each shard are kept, and the manifests that say so.

Two jobs, as the row of a shard's first kept pair is the number of pairs that all shards before it
keep. What decides the content of a shard's manifests is digested, so that those which would come
out the same are not written again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nccleaner.data.features import FeaturePart
from nccleaner.files import read_parquet
from nccleaner.output.manifests import (
    MANIFEST_FOLDER,
    REJECTED_FOLDER,
    ManifestReport,
    Written,
    read_written,
    write_manifest,
)
from nccleaner.pipeline.engines import Advance, Work
from nccleaner.pipeline.scored import scores_intact
from nccleaner.pipeline.tally import count_kept
from nccleaner.pipeline.verdicts import UNLABELLED, Verdicts
from nccleaner.purify.decide import Counts, Decision
from nccleaner.records import MISMATCHED, OK

# Changes with whatever manifests are made of, so that earlier ones are made anew.
_LAYOUT = 1


@dataclass(frozen=True, slots=True)
class Division:
    """What divides the samples of all shards.

    Attributes:
        scores: The folder of their scores.
        clean: The folder for manifests and rejects.
        decision: Divides pairs by a score.
        verdicts: Go before it.
    """

    scores: Path
    clean: Path
    decision: Decision
    verdicts: Verdicts

    @property
    def folders(self) -> tuple[Path, ...]:
        """The scores, the manifests, the rejects."""
        return self.scores, self.clean / MANIFEST_FOLDER, self.clean / REJECTED_FOLDER

    def keeps(self, shard: str, scores: pa.Table) -> tuple[npt.NDArray[np.bool_], Counts]:
        """Tells which samples are kept, [n], and how many by standing that nobody labelled, [s]."""
        label = self.verdicts.of(shard, scores["key"]).label
        passes = self.decision.keeps(scores[self.decision.column].fill_null(-2.0).to_numpy())
        liked = np.where(label == UNLABELLED, passes, label == 1)
        keep = liked & pc.equal(scores["status"], OK).to_numpy()
        return keep, count_kept(scores["fitted"].to_numpy(), label, keep)


class Undecided(NamedTuple):
    """A shard by its name, and the fingerprint of its features."""

    shard: str
    features: str


class Decided(NamedTuple):
    """What is kept of a shard.

    Attributes:
        kept: Pairs.
        unlabelled: [s], those of each standing that nobody labelled.
        digest: Of all that decides the manifest but the row of its first pair.
        written: What an earlier purge left.
    """

    kept: int
    unlabelled: Counts
    digest: str
    written: Written | None


class Unwritten(NamedTuple):
    """A shard whose manifest is to be written.

    Attributes:
        shard: Its name.
        part: Its features.
        first_row: Row of its first kept pair.
        stamp: Of the manifest.
    """

    shard: str
    part: FeaturePart
    first_row: int
    stamp: str


@dataclass(frozen=True, slots=True)
class _OfShards:
    """What both jobs have in common.

    Attributes:
        division: Decides.
    """

    division: Division

    @property
    def folders(self) -> tuple[Path, ...]:
        """The scores, and what is made of them."""
        return self.division.folders

    @property
    def device(self) -> None:
        """It has no networks."""

    @property
    def in_threads(self) -> bool:
        """Tables are read and written beside each other."""
        return True

    def name(self, item: Undecided | Unwritten) -> str:
        """Names a shard."""
        return f"shard {item.shard}"


@dataclass(frozen=True, slots=True)
class Deciding(_OfShards):
    """Decides on a shard."""

    @contextmanager
    def open(self) -> Iterator[Work[Undecided, Decided]]:
        """Opens nothing."""
        yield self._decide

    def _decide(self, item: Undecided, advance: Advance) -> Decided:
        division = self.division
        path = division.scores / f"{item.shard}.parquet"
        columns = {"key", "status", "fitted", division.decision.column}
        with scores_intact(path):
            data = path.read_bytes()
            scores = read_parquet(pa.BufferReader(data), sorted(columns))
        keep, unlabelled = division.keeps(item.shard, scores)
        digest = hashlib.sha256(f"{_LAYOUT} {item.features}".encode())
        digest.update(hashlib.sha256(data).digest())
        digest.update(np.packbits(keep).tobytes())
        advance(scores.num_rows)
        return Decided(
            int(np.count_nonzero(keep)),
            unlabelled,
            digest.hexdigest(),
            read_written(division.clean, item.shard),
        )


@dataclass(frozen=True, slots=True)
class Writing(_OfShards):
    """Writes the manifest and the rejects of a shard."""

    @contextmanager
    def open(self) -> Iterator[Work[Unwritten, ManifestReport]]:
        """Opens nothing."""
        yield self._write

    def _write(self, item: Unwritten, advance: Advance) -> ManifestReport:
        division, part = self.division, item.part.unread()
        path = division.scores / f"{item.shard}.parquet"
        with scores_intact(path):
            scores = read_parquet(path).replace_schema_metadata(None)
        keep, _ = division.keeps(item.shard, scores)
        report = write_manifest(
            division.clean,
            shard=item.shard,
            metadata=part.metadata,
            scores=scores,
            keep=keep,
            reasons=pc.if_else(pc.equal(scores["status"], OK), MISMATCHED, scores["status"]),
            uids=part.read_samples(["uid"])["uid"],
            first_row=item.first_row,
            stamp=item.stamp,
        )
        advance(scores.num_rows)
        return report
