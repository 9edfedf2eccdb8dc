"""What people said of pairs of the shards: which no cut-off decides about, and which judge it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nccleaner.data.features import FeaturePart
from nccleaner.data.trusted import TrustedTable
from nccleaner.errors import TrustedError
from nccleaner.pipeline.labelled import LABEL_SCHEMA, is_of_shards, label_table, match_labels
from nccleaner.pipeline.reporter import Reporter
from nccleaner.pipeline.score import Scoring
from nccleaner.pipeline.workspace import read_checkpoint
from nccleaner.records import Shard

UNLABELLED = -1


class ShardVerdicts(NamedTuple):
    """Verdicts about the samples of a shard.

    Attributes:
        label: [n] int8, 1 matched, 0 mismatched, `UNLABELLED`.
        sampled: [n] bool, whether the pair is of the random sample.
    """

    label: npt.NDArray[np.int8]
    sampled: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Verdicts:
    """All verdicts about the pairs of the shards; no pair is in both tables.

    Attributes:
        trusted: `shard`, `key`, `label` of the pairs that say nothing of the others by chance.
        sample: The same of a random sample of the shards that no fit saw as trusted pairs; without
            rows where there is none.
    """

    trusted: pa.Table
    sample: pa.Table

    @staticmethod
    def read(
        scoring: Scoring,
        shards: Sequence[Shard],
        parts: Sequence[FeaturePart],
        sample: TrustedTable | None,
        reporter: Reporter,
    ) -> Verdicts:
        """Reads what the fit left and, where it is given, a file with a labelled random sample.

        What a fit set aside is a sample of its own shards: of others, or where a file is given, it
        only says what its own pairs are.

        Args:
            scoring: The run.
            shards: What is purged.
            parts: Their features.
            sample: What the file says, a label in every row.
            reporter: Hears of rows that are not used, and of a sample that may be none.

        Raises:
            TrustedError: None of the rows of the file can be used.
        """
        of_fit = [shard.name for shard in shards if scoring.is_of_fit(shard)]
        trusted = _of_shards(read_checkpoint(scoring.workspace.trusted), of_fit)
        aside = LABEL_SCHEMA.empty_table()
        if scoring.workspace.sample.exists():
            aside = _of_shards(read_checkpoint(scoring.workspace.sample), of_fit)
        if sample is not None:
            drawn = _read_sample(sample, shards, parts, trusted, reporter)
            verdicts = Verdicts(pa.concat_tables([trusted, _without(aside, drawn)]), drawn)
        elif len(of_fit) == len(shards):
            verdicts = Verdicts(trusted, aside)
        else:
            verdicts = Verdicts(pa.concat_tables([trusted, aside]), aside.slice(0, 0))
        if pc.min(verdicts.sample["label"]).as_py() == 1:
            reporter.warn(
                f"None of the {len(verdicts.sample)} pairs of the random sample is labelled 0: if "
                "they were chosen because they are good, no estimate of this purge holds."
            )
        return verdicts

    def of(self, shard: str, keys: pa.ChunkedArray) -> ShardVerdicts:
        """Returns the verdicts about the samples of a shard, by their keys."""
        label = np.full(len(keys), UNLABELLED, dtype=np.int8)
        by_sample = _labels(self.sample, shard, keys)
        for found in (_labels(self.trusted, shard, keys), by_sample):
            label = np.where(found != UNLABELLED, found, label)
        return ShardVerdicts(label, by_sample != UNLABELLED)


def _read_sample(
    table: TrustedTable,
    shards: Sequence[Shard],
    parts: Sequence[FeaturePart],
    trusted: pa.Table,
    reporter: Reporter,
) -> pa.Table:
    match = match_labels(table, shards, parts)
    inside = [pair for pair in match.pairs if is_of_shards(pair)]
    unused = {
        "cannot be used": len(match.problems),
        "have an image or a caption that is not the shards'": len(match.pairs) - len(inside),
    }
    labels = label_table(inside)
    drawn = _without(labels, trusted)
    unused["were trusted pairs of the fit, which its scores know"] = len(labels) - len(drawn)
    found = "; ".join(f"{count} {why}" for why, count in unused.items() if count)
    if match.problems:
        first = match.problems[0]
        found += f" (the first: row {first.row} {first.reason})"
    if not len(drawn):
        raise TrustedError(
            f"{table.path}: no row labels a pair that could judge a cut-off: {found}.",
            "Give labels, 0 and 1, of pairs drawn at random from the shards.",
        )
    if found:
        reporter.warn(f"{table.path}: rows that are not used: {found}.")
    return drawn


def _of_shards(labels: pa.Table, shards: Sequence[str]) -> pa.Table:
    return labels.filter(pc.is_in(labels["shard"], value_set=pa.array(shards, pa.string())))


def _without(labels: pa.Table, others: pa.Table) -> pa.Table:
    """The labels of pairs that the others do not label."""
    rest: pa.Table = labels.join(others, keys=["shard", "key"], join_type="left anti")
    return rest.select(LABEL_SCHEMA.names).sort_by([("shard", "ascending"), ("key", "ascending")])


def _labels(labels: pa.Table, shard: str, keys: pa.ChunkedArray) -> npt.NDArray[np.int8]:
    mine = labels.filter(pc.equal(labels["shard"], shard)).combine_chunks()
    if not len(mine):  # as of most shards
        return np.full(len(keys), UNLABELLED, dtype=np.int8)
    places = pc.index_in(keys, value_set=mine["key"])
    found: npt.NDArray[np.int8] = mine["label"].take(places).fill_null(UNLABELLED).to_numpy()
    return found
