"""What the scores of all shards tell together, before any cut-off; filled shard by shard."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nccleaner.pipeline.looking import EXCHANGES
from nccleaner.pipeline.verdicts import UNLABELLED, ShardVerdicts
from nccleaner.purify.by_sample import BySample
from nccleaner.purify.by_trusted import ByTrusted, Standing
from nccleaner.purify.decide import Column, Counts, Known, ScoreCounts
from nccleaner.purify.noise import CUTOFF
from nccleaner.purify.scoring import Judges
from nccleaner.records import OK

STANDINGS = (True, False)  # whether the networks were trained on a pair


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
        self._sample_matched: list[npt.NDArray[np.bool_]] = []

    def add(self, scores: pa.Table, verdicts: ShardVerdicts) -> None:
        """Adds a shard."""
        is_pair = pc.equal(scores["status"], OK)
        pairs, chosen = scores.filter(is_pair), is_pair.to_numpy()
        label, sampled = verdicts.label[chosen], verdicts.sampled[chosen]
        values = pairs[self._column].to_numpy()
        clean = pairs["clean_probability"].to_numpy()
        passes = pairs["corrected_similarity"].to_numpy() >= CUTOFF
        for place, rows in enumerate(standing_masks(pairs, label)):
            self.unlabelled[place].add(values[rows], clean[rows])
            self._passing[place] += passes[rows].sum()
        self.labelled.add(values[label != UNLABELLED], clean[label != UNLABELLED])
        self._labels.update(label.tolist())
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
        repeats = (1, EXCHANGES)  # each probe is exchanged once, held-out pairs several times
        standings = [
            Standing(judge, times, counts.total, float(passing / max(counts.total, 1)))
            for judge, times, counts, passing in zip(
                (judges.fitted, judges.unseen),
                repeats,
                self.unlabelled,
                self._passing,
                strict=True,
            )
        ]
        return ByTrusted(self._column, standings, known=self.known, labelled=labelled, seed=seed)


def standing_masks(scores: pa.Table, label: npt.NDArray[np.int8]) -> list[npt.NDArray[np.bool_]]:
    """Tells of each standing which samples are of it and labelled by nobody."""
    fitted, free = scores["fitted"].to_numpy(), label == UNLABELLED
    return [free & (fitted == standing) for standing in STANDINGS]


def count_kept(
    scores: pa.Table, label: npt.NDArray[np.int8], keep: npt.NDArray[np.bool_]
) -> Counts:
    """Counts by standing the samples that are kept and that nobody labelled, [s]."""
    return np.array([(mask & keep).sum() for mask in standing_masks(scores, label)])
