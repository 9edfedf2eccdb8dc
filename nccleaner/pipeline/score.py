"""`score`: one Parquet file of scores for each shard."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from nccleaner.allocator import give_back_freed_memory, keep_freed_memory
from nccleaner.data.features import FeaturePart
from nccleaner.data.locations import find_shards, refuse_inside_input
from nccleaner.pipeline.backbones import Backbones, resolve_device
from nccleaner.pipeline.engines import Advance, Engine, EngineName, LocalEngine, Work, open_engine
from nccleaner.pipeline.extraction import FeatureStore, summarise
from nccleaner.pipeline.occupied import occupied
from nccleaner.pipeline.reporter import Reporter, SilentReporter, shard_count
from nccleaner.pipeline.results import ScoreResult
from nccleaner.pipeline.scored import has_scores, score_part, write_scores
from nccleaner.pipeline.workspace import (
    RunDescription,
    Workspace,
    add_inputs,
    known_shards,
    read_checkpoint,
)
from nccleaner.purify.judge import Judges
from nccleaner.purify.scorer_file import read_judges, scorer_identity
from nccleaner.records import Shard

if TYPE_CHECKING:
    from nccleaner.purify.scoring import Scorer


def score(
    run: str | Path,
    shards: str | Path | Sequence[str | Path] | None = None,
    *,
    output: str | Path | None = None,
    engine: EngineName = "local",
    reporter: Reporter | None = None,
) -> ScoreResult:
    """Scores every pair of the shards; what is scored already is left as it is.

    Args:
        run: A run directory with a finished fit.
        shards: What to score; None for the shards of the fit.
        output: Where scores and features of another data set go; None for the run directory.
        engine: `local`, or `ray` for a cluster.
        reporter: Hears of progress.

    Raises:
        UsageError: No such engine, or the scores would go among the shards.
        RunError: No finished fit, scores of other shards of the same names are there, or another
            process is at work there.
        ShardError: No shards, or their storage failed.
    """
    start = time.monotonic()
    with open_engine(engine) as opened:
        scoring = Scoring.open(run, output, opened)
        chosen = scoring.description.shards if shards is None else tuple(find_shards(shards))
        with scoring.occupied(chosen):
            parts = scoring.score(chosen, reporter or SilentReporter())
    return ScoreResult(
        folder=scoring.target.root, reading=summarise(parts), seconds=time.monotonic() - start
    )


@dataclass(frozen=True)
class Scoring:
    """A finished fit, opened to score with.

    Attributes:
        workspace: The run directory.
        target: Where scores, features and results go: the run directory or `--output`.
        description: What `run.json` says.
        store: The feature cache of the target.
        judges: What the scorer decides by.
        identity: Of the scorer.
    """

    workspace: Workspace
    target: Workspace
    description: RunDescription
    store: FeatureStore
    judges: Judges
    identity: str

    @staticmethod
    def open(run: str | Path, output: str | Path | None, engine: Engine | None = None) -> Scoring:
        """Opens a run.

        Args:
            run: The run directory.
            output: Of another data set; None for the run directory.
            engine: Extracts and scores; None for this process.

        Raises:
            RunError: It holds no finished fit.
        """
        workspace = Workspace(Path(run))
        target = Workspace(Path(output)) if output is not None else workspace
        description = RunDescription.read(workspace.description)
        config = description.config
        fine_tuned = workspace.fine_tuned if config.train.fine_tune_epochs else None
        return Scoring(
            workspace,
            target,
            description,
            FeatureStore(
                target.fine_tuned_features if fine_tuned else target.features,
                Backbones(config.encoders, fine_tuned),
                config.data,
                description.image_encoder,
                description.text_encoder,
                engine=engine or LocalEngine(),
            ),
            read_judges(workspace.scorer),
            scorer_identity(workspace.scorer),
        )

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        """Goes to another process as what it is to open there."""
        return Scoring.open, (self.workspace.root.absolute(), self.target.root.absolute())

    @cached_property
    def device(self) -> str:
        """Where to compute."""
        return resolve_device(self.description.config.encoders.device)

    @cached_property
    def scorer(self) -> Scorer:
        """Scores pairs; loaded when something is scored or embedded, as that takes seconds."""
        from nccleaner.purify.scoring import Scorer

        return Scorer.load(self.workspace.scorer, device=self.device)

    @contextmanager
    def occupied(self, shards: Sequence[Shard]) -> Iterator[None]:
        """Keeps the target for this process; it may not lie among the shards.

        Raises:
            UsageError: It does.
            RunError: Another process works there.
        """
        refuse_inside_input(shards, self.target.root)
        with occupied(self.target.root):
            yield

    def score(self, shards: Sequence[Shard], reporter: Reporter) -> list[FeaturePart]:
        """Scores what is not scored yet; returns the parts of all shards."""
        scored = {
            shard.name: has_scores(self.scores_path(shard), shard, self.identity)
            for shard in shards
        }
        add_inputs(self.target, shards)
        parts = self.store.parts(shards, reporter)
        todo = [
            (shard, part)
            for shard, part in zip(shards, parts, strict=True)
            if not scored[shard.name]
        ]
        if not todo:
            return parts
        pairs = sum(part.report.samples for _, part in todo)
        with reporter.stage(f"Scoring {shard_count(todo)}", pairs, "samples") as advance:
            for _ in self.store.engine.run(_ScoringOfShards(self), todo, advance):
                pass
        return parts

    def inputs(self) -> tuple[Shard, ...]:
        """Returns the shards of the target: those of the fit, unless others were scored apart."""
        return known_shards(self.workspace, self.target, self.description)

    def scores_path(self, shard: Shard) -> Path:
        """Returns where the scores of a shard are."""
        return self.target.scores / f"{shard.name}.parquet"

    def is_of_fit(self, shard: Shard) -> bool:
        """Tells whether the networks were trained on pairs of this very shard."""
        return shard in self._of_fit

    @cached_property
    def _of_fit(self) -> frozenset[Shard]:
        return frozenset(self.description.shards)


@dataclass(frozen=True, slots=True)
class _ScoringOfShards:
    """Scores a shard, given with its part, and writes the scores.

    Attributes:
        scoring: The run.
    """

    scoring: Scoring

    @property
    def folders(self) -> tuple[Path, ...]:
        """The feature cache and the scores."""
        return self.scoring.store.root.absolute(), self.scoring.target.scores.absolute()

    @property
    def device(self) -> str:
        """Of the scorer."""
        return self.scoring.description.config.encoders.device

    @property
    def in_threads(self) -> bool:
        """Networks and pool are only read."""
        return True

    def name(self, item: tuple[Shard, FeaturePart]) -> str:
        """Names a shard."""
        return f"shard {item[0].name}"

    @contextmanager
    def open(self) -> Iterator[Work[tuple[Shard, FeaturePart], None]]:
        """Loads the scorer, and reads which pairs the networks were trained on."""
        from nccleaner.model.products import float32_products

        scoring = self.scoring
        if scoring.device == "cpu":
            keep_freed_memory()
        scorer = scoring.scorer
        pool = read_checkpoint(scoring.workspace.pool)
        nothing, by_shard = pool.slice(0, 0), _by_shard(pool)

        def score_shard(item: tuple[Shard, FeaturePart], advance: Advance) -> None:
            shard, part = item
            trained_on = by_shard.get(shard.name, nothing) if scoring.is_of_fit(shard) else nothing
            table = score_part(
                shard,
                part.unread(),
                scorer,
                pool=trained_on,
                device=scoring.device,
                max_tokens=scoring.description.config.model.max_tokens,
                advance=advance,
            )
            write_scores(table, scoring.scores_path(shard), shard, scoring.identity)
            if scoring.device == "cpu":
                give_back_freed_memory()

        # The setting is the process's: threads that each set it, and set it back, would meet.
        with float32_products(rounded=True):
            yield score_shard


def _by_shard(pool: pa.Table) -> dict[str, pa.Table]:
    """The pairs of the pool, by the name of their shard."""
    grouped = pool.group_by("shard", use_threads=False).aggregate(
        [("key", "list"), ("belief", "list")]
    )
    columns = zip(grouped["key_list"], grouped["belief_list"], strict=True)
    pairs = (pa.table({"key": key.values, "belief": belief.values}) for key, belief in columns)
    return dict(zip(grouped["shard"].to_pylist(), pairs, strict=True))
