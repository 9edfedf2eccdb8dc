"""What the scores of all shards tell together, before any cut-off; filled shard by shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from nccleaner.files import read_parquet
from nccleaner.pipeline.engines import Advance, Work
from nccleaner.pipeline.scored import scores_intact
from nccleaner.pipeline.verdicts import UNLABELLED, ShardVerdicts, Verdicts
from nccleaner.purify.by_sample import BySample
from nccleaner.purify.by_trusted import ByTrusted, Standing
from nccleaner.purify.decide import Column, Counts, Known, ScoreCounts
from nccleaner.purify.judge import Judges
from nccleaner.purify.noise import CUTOFF
from nccleaner.records import OK

Bools = npt.NDArray[np.bool_]

STANDINGS = (True, False)  # whether a pair was in the training pool


class PairScores(NamedTuple):
    """Scores of the n pairs of a shard.

    Attributes:
        values: [n], the score that is cut.
        clean_probability: [n].
        passes: [n], whether the corrected similarity reaches the cut-off of the noise rate.
        fitted: [n], whether the pair was in the training pool.
        verdicts: About the n pairs.
    """

    values: npt.NDArray[np.float32]
    clean_probability: npt.NDArray[np.float32]
    passes: Bools
    fitted: Bools
    verdicts: ShardVerdicts


@dataclass(frozen=True, slots=True)
class ReadingOfScores:
    """Reads the scores of a shard, given by its name.

    Attributes:
        scores: The folder of the scores.
        column: The score that is cut.
        verdicts: What people said of some pairs.
    """

    scores: Path
    column: Column
    verdicts: Verdicts

    @property
    def folders(self) -> tuple[Path, ...]:
        """The scores."""
        return (self.scores,)

    @property
    def device(self) -> None:
        """It has no networks."""

    @property
    def in_threads(self) -> bool:
        """Tables are read and written beside each other."""
        return True

    def name(self, item: str) -> str:
        """Names a shard."""
        return f"shard {item}"

    @contextmanager
    def open(self) -> Iterator[Work[str, PairScores]]:
        """Opens nothing."""
        yield self._read

    def _read(self, shard: str, advance: Advance) -> PairScores:
        columns = {"key", "status", "fitted", "corrected_similarity", "clean_probability"}
        path = self.scores / f"{shard}.parquet"
        with scores_intact(path):
            table = read_parquet(path, sorted(columns | {self.column}))
        pairs = table.filter(pc.equal(table["status"], OK))
        advance(table.num_rows)
        return PairScores(
            pairs[self.column].to_numpy(),
            pairs["clean_probability"].to_numpy(),
            pairs["corrected_similarity"].to_numpy() >= CUTOFF,
            pairs["fitted"].to_numpy(),
            self.verdicts.of(shard, pairs["key"]),
        )


class Tally:
    """Counts of scores, and what people said of some.

    Args:
        column: The score that is cut.

    Attributes:
        unlabelled: Scores of the pairs that nobody labelled, by standing.
        labelled: Scores of the others.
    """

    def __init__(self, column: Column) -> None:
        self.unlabelled = tuple(ScoreCounts(column) for _ in STANDINGS)
        self.labelled = ScoreCounts(column)
        self._column = column
        self._passing = np.zeros(len(STANDINGS))
        self._labels: Counter[int] = Counter()
        self._sample_scores: list[npt.NDArray[np.float32]] = []
        self._sample_matched: list[Bools] = []

    def add(self, pairs: PairScores) -> None:
        """Adds the pairs of a shard."""
        values, clean = pairs.values, pairs.clean_probability
        label, sampled = pairs.verdicts
        for place, rows in enumerate(standing_masks(pairs.fitted, label)):
            self.unlabelled[place].add(values[rows], clean[rows])
            self._passing[place] += pairs.passes[rows].sum()
        self.labelled.add(values[label != UNLABELLED], clean[label != UNLABELLED])
        self._labels.update({said: int((label == said).sum()) for said in (0, 1)})
        self._sample_scores.append(values[sampled])
        self._sample_matched.append(label[sampled] == 1)

    @property
    def everything(self) -> ScoreCounts:
        """Scores of all pairs."""
        return self.unlabelled[0] + self.unlabelled[1] + self.labelled

    @property
    def known(self) -> Known:
        """The pairs that a person labelled."""
        return Known(self._labels[1], self._labels[0])

    def by_sample(self) -> BySample | None:
        """Returns what the random sample says; None where there is none."""
        matched = np.concatenate(self._sample_matched)
        if not len(matched):
            return None
        pairs = sum(counts.total for counts in self.unlabelled)
        scores = np.concatenate(self._sample_scores)
        return BySample(scores, matched, pairs=pairs, known=self.known)

    def by_trusted(self, judges: Judges, *, labelled: int, seed: int) -> ByTrusted:
        """Returns what the labelled pairs of the judges say.

        Args:
            judges: Of both standings.
            labelled: How many trusted pairs these rest on.
            seed: Of the draws.
        """
        standings = [
            Standing(judge, counts.total, float(passing / max(counts.total, 1)), counts)
            for judge, counts, passing in zip(
                (judges.fitted, judges.unseen),
                self.unlabelled,
                self._passing,
                strict=True,
            )
        ]
        return ByTrusted(self._column, standings, known=self.known, labelled=labelled, seed=seed)


def standing_masks(fitted: Bools, label: npt.NDArray[np.int8]) -> list[Bools]:
    """Tells of each standing which samples are of it and labelled by nobody."""
    free = label == UNLABELLED
    return [free & (fitted == standing) for standing in STANDINGS]


def count_kept(fitted: Bools, label: npt.NDArray[np.int8], keep: Bools) -> Counts:
    """Counts by standing the samples that are kept and that nobody labelled, [s]."""
    return np.array([(mask & keep).sum() for mask in standing_masks(fitted, label)])
