"""`score`: one Parquet file of scores for each shard."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from nccleaner.data.features import FeaturePart
from nccleaner.data.locations import find_shards, refuse_inside_input
from nccleaner.files import remove_leftovers
from nccleaner.pipeline.backbones import Backbones, resolve_device
from nccleaner.pipeline.engines import Advance, Engine, LocalEngine, Work
from nccleaner.pipeline.extraction import FeatureStore, summarise
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
from nccleaner.purify.scoring import Scorer, scorer_identity
from nccleaner.records import Shard


def score(
    run: str | Path,
    shards: str | Path | Sequence[str | Path] | None = None,
    *,
    output: str | Path | None = None,
    reporter: Reporter | None = None,
) -> ScoreResult:
    """Scores every pair of the shards; what is scored already is left as it is.

    Args:
        run: A run directory with a finished fit.
        shards: What to score; None for the shards of the fit.
        output: Where scores and features of another data set go; None for the run directory.
        reporter: Hears of progress.

    Raises:
        RunError: No finished fit, or scores of other shards of the same names are there.
        ShardError: No shards, or their storage failed.
    """
    start = time.monotonic()
    scoring = Scoring.open(run, output)
    chosen = scoring.description.shards if shards is None else tuple(find_shards(shards))
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
        scorer: Scores pairs.
        identity: Of the scorer.
        device: Where to compute.
    """

    workspace: Workspace
    target: Workspace
    description: RunDescription
    store: FeatureStore
    scorer: Scorer
    identity: str
    device: str

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
        device = resolve_device(config.encoders.device)
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
            Scorer.load(workspace.scorer, device=device),
            scorer_identity(workspace.scorer),
            device,
        )

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        """Goes to another process as what it is to open there."""
        return Scoring.open, (self.workspace.root.absolute(), self.target.root.absolute())

    def score(self, shards: Sequence[Shard], reporter: Reporter) -> list[FeaturePart]:
        """Scores what is not scored yet; returns the parts of all shards."""
        refuse_inside_input(shards, self.target.root)
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
        if self.target.scores.exists():
            remove_leftovers(self.target.scores)
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
        return shard in self.description.shards


@dataclass(frozen=True, slots=True)
class _ScoringOfShards:
    """Scores a shard, given with its part, and writes the scores.

    Attributes:
        scoring: The run.
    """

    scoring: Scoring

    @contextmanager
    def open(self) -> Iterator[Work[tuple[Shard, FeaturePart], None]]:
        """Reads which pairs the networks were trained on."""
        scoring = self.scoring
        fitted = read_checkpoint(scoring.workspace.pool)

        def score_shard(item: tuple[Shard, FeaturePart], advance: Advance) -> None:
            shard, part = item
            table = score_part(
                shard,
                part,
                scoring.scorer,
                fitted_keys=_fitted_keys(scoring, fitted, shard),
                device=scoring.device,
                max_tokens=scoring.description.config.model.max_tokens,
            )
            write_scores(table, scoring.scores_path(shard), shard, scoring.identity)
            advance(part.report.samples)

        yield score_shard


def _fitted_keys(scoring: Scoring, fitted: pa.Table, shard: Shard) -> pa.Array:
    if not scoring.is_of_fit(shard):
        return pa.array([], pa.string())
    return fitted.filter(pc.equal(fitted["shard"], shard.name))["key"].combine_chunks()
