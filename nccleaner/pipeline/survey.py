"""One pass over what a purge decided: counts, histograms, and some pairs to look at.

In memory are the scores of one shard, a few counts of each shard, and the pairs that were drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nccleaner.output.manifests import manifest_paths, read_outcomes
from nccleaner.output.report.page import ShardOutcome
from nccleaner.pipeline.reporter import Reporter, shard_count
from nccleaner.purify.decide import Decision
from nccleaner.records import OK

Floats = npt.NDArray[np.float64]
Kind = Literal["surely_mismatched", "below", "above", "surely_matched", "random"]

# A clean probability this near to 0 or 1 is sure.
SURE = 0.05
GALLERY_PAIRS = 18
_TABLE_PAIRS = 300
# Pairs to look at come from no more shards than give so many of both: images cost reading.
_MIN_SHARDS = 8
_MIN_PAIRS = 20_000
_BARS = 20
_COLUMNS = ("key", "similarity", "corrected_similarity", "clean_probability", "fitted", "status")


class Draw:
    """The pairs of the lowest ranks among all that are added.

    Args:
        count: How many, at most.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._pairs: pa.Table | None = None

    def add(self, pairs: pa.Table, ranks: Floats) -> None:
        """Adds pairs with a rank each."""
        best = np.argsort(ranks, kind="stable")[: self._count]
        found = pairs.take(pa.array(best)).append_column("rank", pa.array(ranks[best]))
        joined = found if self._pairs is None else pa.concat_tables([self._pairs, found])
        self._pairs = joined.sort_by("rank").slice(0, self._count)

    @property
    def pairs(self) -> list[dict[str, Any]]:
        """The pairs by rank, each by the names of its columns."""
        return [] if self._pairs is None else self._pairs.drop_columns("rank").to_pylist()


class Survey:
    """What a purge decided about all samples.

    Args:
        decision: What it decided by.
        problems: What is wrong with a shard as a whole, by its name.
        seed: Of what is drawn.

    Attributes:
        score: What the pairs are arranged by: a clean probability is one of a corrected similarity.
        edges: [bars + 1] of the score.
        matched: [bars], matched pairs, expected by their clean probabilities.
        mismatched: [bars], the others.
        counts: Pairs that the networks were trained on, and others.
        outcomes: What became of each shard's samples.
        draws: Pairs to look at.
        pictured: Names of the shards that they come from.
    """

    def __init__(
        self,
        decision: Decision,
        *,
        problems: Mapping[str, str],
        seed: int,
    ) -> None:
        self._decision = decision
        self._problems = problems
        self._seed = seed
        on_cosine = decision.column == "similarity"
        self.score = "similarity" if on_cosine else "corrected_similarity"
        self.edges: Floats = np.linspace(-1.0 if on_cosine else 0.0, 1.0, _BARS + 1)
        self.matched: Floats = np.zeros(_BARS)
        self.mismatched: Floats = np.zeros(_BARS)
        self.counts: Counter[bool] = Counter()
        self.outcomes: list[ShardOutcome] = []
        self.draws: dict[Kind, Draw] = {
            "surely_mismatched": Draw(GALLERY_PAIRS),
            "below": Draw(GALLERY_PAIRS),
            "above": Draw(GALLERY_PAIRS),
            "surely_matched": Draw(GALLERY_PAIRS),
            "random": Draw(_TABLE_PAIRS),
        }
        self.pictured: list[str] = []
        self._pictured_pairs = 0

    def read(self, clean: Path, samples: int, reporter: Reporter) -> None:
        """Reads all manifests and rejects.

        Args:
            clean: The folder that holds them.
            samples: How many they hold.
            reporter: Hears of progress.

        Raises:
            RunError: Nothing was purged here, or not by nccleaner.
        """
        paths = manifest_paths(clean)
        # The order is drawn, so that the first shards are as good as any to draw pairs from.
        order = np.random.default_rng(self._seed).permutation(len(paths))
        title = f"Reading manifests of {shard_count(paths)}"
        with reporter.stage(title, samples, "samples") as advance:
            for place in order:
                shard = paths[place].stem
                table = read_outcomes(clean, shard, _COLUMNS)
                self._add(shard, table, np.random.default_rng([self._seed, int(place)]))
                advance(table.num_rows)
        self.outcomes.sort(key=lambda outcome: outcome.shard)

    def _add(self, shard: str, table: pa.Table, rng: np.random.Generator) -> None:
        dropped = Counter(table["reason"].drop_null().to_pylist())
        self.outcomes.append(
            ShardOutcome(
                shard,
                table.num_rows - dropped.total(),
                dict(dropped.most_common()),
                self._problems.get(shard, ""),
            )
        )
        pairs = table.filter(pc.equal(table["status"], OK))
        self._count(pairs)
        if len(self.pictured) < _MIN_SHARDS or self._pictured_pairs < _MIN_PAIRS:
            self.pictured.append(shard)
            self._pictured_pairs += pairs.num_rows
            self._draw(shard, pairs, rng)

    def _count(self, pairs: pa.Table) -> None:
        scores = pairs[self.score].to_numpy()
        matched = pairs["clean_probability"].to_numpy()
        self.matched += np.histogram(scores, self.edges, weights=matched)[0]
        self.mismatched += np.histogram(scores, self.edges, weights=1 - matched)[0]
        self.counts.update(pairs["fitted"].to_pylist())

    def _draw(self, shard: str, pairs: pa.Table, rng: np.random.Generator) -> None:
        scores = pairs[self._decision.column].to_numpy()
        clean = pairs["clean_probability"].to_numpy()
        above = self._decision.keeps(scores)
        chance = rng.random(len(scores))
        # Equal distances in an order that is drawn.
        distance = np.abs(scores.astype(np.float64) - self._decision.cutoff) + 1e-9 * chance
        kept = pc.is_null(pairs["reason"])
        shown = (
            pairs.drop_columns(["reason", "status", "fitted"])
            .append_column("shard", pa.array([shard] * len(pairs), pa.string()))
            .append_column("kept", kept)
            .append_column("by_person", pa.array(above != kept.to_numpy()))
        )
        everywhere: npt.NDArray[np.bool_] = np.ones(len(scores), dtype=bool)
        choices: Sequence[tuple[Kind, npt.NDArray[np.bool_], Floats]] = (
            ("surely_mismatched", clean <= SURE, chance),
            ("below", ~above, distance),
            ("above", above, distance),
            ("surely_matched", clean >= 1 - SURE, chance),
            ("random", everywhere, chance),
        )
        for kind, rows, ranks in choices:
            self.draws[kind].add(shown.filter(pa.array(rows)), ranks[rows])
