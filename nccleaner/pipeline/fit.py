"""`fit`: shards and a trusted file to a run directory with a scorer."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from nccleaner.config import RunConfig
from nccleaner.data.features import FeaturePart
from nccleaner.data.locations import find_shards, refuse_inside_input
from nccleaner.data.matching import check_rows
from nccleaner.data.trusted import TrustedTable, read_trusted
from nccleaner.errors import InputError, RunError
from nccleaner.files import write_parquet
from nccleaner.pipeline.backbones import Backbones, limits_of
from nccleaner.pipeline.engines import Engine, EngineName, open_engine
from nccleaner.pipeline.extraction import FeatureStore, summarise
from nccleaner.pipeline.finetuning import fine_tune_scorer
from nccleaner.pipeline.fitting import Fitted, Trained, judge_scorer, take_part, train_scorer
from nccleaner.pipeline.labelled import LabelledPairs, label_table, read_labelled
from nccleaner.pipeline.occupied import occupied
from nccleaner.pipeline.pool import TrainingTables, build_tables
from nccleaner.pipeline.processes import Processes, joined
from nccleaner.pipeline.reporter import Reporter, SilentReporter
from nccleaner.pipeline.results import FitResult
from nccleaner.pipeline.snapshots import Snapshots, training_fingerprint
from nccleaner.pipeline.training import refuse_to_divide
from nccleaner.pipeline.workspace import RunDescription, Workspace
from nccleaner.purify.scorer_file import scorer_identity
from nccleaner.records import Shard


def fit(
    shards: str | Path | Sequence[str | Path],
    *,
    meta: str | Path,
    run: str | Path = "nccleaner-run",
    config: RunConfig | None = None,
    engine: EngineName = "local",
    reporter: Reporter | None = None,
) -> FitResult:
    """Learns from trusted pairs which pairs of the shards are mismatched.

    Features that an earlier, interrupted or other fit left in the run directory are used again
    where they fit, and training goes on after the last whole epoch of a fit with the same inputs,
    settings and versions. Where that was finished, nothing is trained and its results stay; scores
    and results of any other earlier fit there are removed.

    Under torchrun all processes call this with the same arguments and get the same result. The
    first one does and reports all but the training, which they divide; networks and scores are
    those of one process up to rounding.

    Args:
        shards: A folder, glob, brace pattern, fsspec URL, or several of these.
        meta: The trusted file: CSV, TSV or Parquet.
        run: The run directory.
        config: Settings; None for the defaults.
        engine: Extracts the features: `local`, or `ray` for a cluster.
        reporter: Hears of progress.

    Raises:
        UsageError: The run directory lies among the shards, there is no such engine, or several
            processes cannot train with these settings.
        ShardError: No shards, or their storage failed.
        TrustedError: The trusted file cannot be used or holds too few usable pairs.
        InputError: Too few pairs to learn from.
        RunError: Another process is at work there, or one of the training ended.
        TrainingError: Training diverged.
    """
    config, reporter = config or RunConfig(), reporter or SilentReporter()
    with joined(config.encoders.device) as processes:
        if processes.first:
            result = _fit(shards, Path(meta), Path(run), config, engine, reporter, processes)
        else:
            workspace = Workspace(Path(run))
            take_part(processes, workspace, workspace.training)
            result = None
        found: FitResult = processes.share(result)
    return found


def _fit(
    shards: str | Path | Sequence[str | Path],
    trusted_path: Path,
    run: Path,
    config: RunConfig,
    engine: EngineName,
    reporter: Reporter,
    processes: Processes,
) -> FitResult:
    """Does all of it but what the other processes have of the training."""
    if processes.world.size > 1:
        refuse_to_divide(config)
    workspace = Workspace(run)
    # Before the shards, which may take days to read.
    trusted = read_trusted(trusted_path, label_required=config.trusted.sample > 0)
    check_rows(trusted)
    found = find_shards(shards)
    refuse_inside_input(found, workspace.root)
    with occupied(workspace.root):
        return _Fit(found, trusted, workspace, config, engine, reporter).run(processes)


class _Inputs(NamedTuple):
    """What the shards and the trusted file are to one image encoder.

    Attributes:
        store: The feature cache.
        parts: Features of each shard.
        labelled: The trusted pairs.
    """

    store: FeatureStore
    parts: list[FeaturePart]
    labelled: LabelledPairs


@dataclass(frozen=True, slots=True)
class _Fit:
    """A fit of these shards with these settings."""

    shards: Sequence[Shard]
    trusted: TrustedTable
    workspace: Workspace
    config: RunConfig
    engine: EngineName
    reporter: Reporter

    def run(self, processes: Processes) -> FitResult:
        """Reads, trains, judges and writes the run down."""
        start = time.monotonic()
        backbones = Backbones(self.config.encoders)
        trainable = backbones.image_network() if self.config.train.fine_tune_epochs else None
        inputs = self._read(backbones, self.workspace.features)
        if inputs.labelled.warning:
            self.reporter.warn(inputs.labelled.warning)
        reading = summarise(inputs.parts)
        folder = self.workspace.training
        try:
            tables = self._tables(inputs, folder)
            fingerprint = training_fingerprint(tables, self.config, backbones.device)
            training_start = time.monotonic()
            trained = self._train(tables, fingerprint, backbones.device, processes)
            if trainable is not None:
                trained = fine_tune_scorer(
                    trained,
                    tables,
                    self.shards,
                    inputs.labelled.pairs,
                    network=trainable,
                    spec=backbones.image.spec,
                    config=self.config,
                    device=backbones.device,
                    fingerprint=fingerprint,
                    workspace=self.workspace,
                    folder=folder,
                    reporter=self.reporter,
                )
                # From here on this is the run's image encoder.
                backbones = Backbones(self.config.encoders, self.workspace.fine_tuned)
                inputs = self._read(backbones, self.workspace.fine_tuned_features)
                trained_on, tables = tables, self._tables(inputs, folder / "fine-tuned")
                self._refuse_other_pairs(trained_on, tables)
            fitted = judge_scorer(
                trained,
                tables,
                config=self.config,
                device=backbones.device,
                reporter=self.reporter,
            )
            if fitted.warning:
                self.reporter.warn(fitted.warning)
            training_s = time.monotonic() - training_start
            self._write_results(fitted, inputs, tables)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        result = FitResult(
            run=self.workspace.root,
            reading=reading,
            trusted={
                "meta": sum(len(pairs) for pairs in tables.meta),
                "probe": int((~tables.probe_exchanged).sum()),
                "held_out": sum(len(pairs) for pairs in tables.held_out),
                "sample": len(inputs.labelled.set_aside),
            },
            trusted_problems=inputs.labelled.problems,
            warning=" ".join(filter(None, (inputs.labelled.warning, fitted.warning))),
            pool=len(tables.pool),
            exchanged=int(tables.probe_exchanged.sum()),
            epochs=fitted.epochs,
            best_epoch=fitted.best_epoch,
            held_out_auroc=fitted.held_out_auroc,
            probe_auroc=fitted.probe_auroc,
            noise_rate=fitted.noise_rate,
            training_s=training_s,
            seconds=time.monotonic() - start,
        )
        RunDescription(
            config=self.config,
            shards=tuple(self.shards),
            trusted=self.trusted.path.absolute(),
            image_encoder=inputs.store.image_encoder,
            text_encoder=inputs.store.text_encoder,
            device=backbones.device,
            result={**asdict(result), "run": str(result.run)},
        ).write(self.workspace.description)
        return result

    def _read(self, backbones: Backbones, root: Path) -> _Inputs:
        """Fills the feature cache, and finds the trusted pairs."""
        with open_engine(self.engine) as engine:
            store = self._open_store(root, backbones, engine)
            parts = store.parts(self.shards, self.reporter)
        reading = summarise(parts)
        if not reading.pairs:
            problems = [f" {name}: {what}." for name, what in reading.problems.items()]
            raise InputError(
                f"The shards hold {reading.samples:,} samples and no pair among them."
                + "".join(problems[:1]),
                "Give shards with images and captions.",
            )
        labelled = read_labelled(
            self.trusted,
            self.shards,
            parts,
            backbones=backbones,
            limits=limits_of(self.config.data),
            sample=self.config.trusted.sample,
            seed=self.config.seed,
        )
        return _Inputs(store, parts, labelled)

    def _open_store(self, root: Path, backbones: Backbones, engine: Engine) -> FeatureStore:
        with self.reporter.stage("Loading encoders", 2, "encoders") as advance:
            image_encoder = backbones.image.fingerprint
            advance(1)
            text_encoder = backbones.text.fingerprint if backbones.text else None
            advance(1)
        return FeatureStore(
            root,
            backbones,
            self.config.data,
            image_encoder,
            text_encoder,
            targets=self.config.train.image_reconstruction > 0,
            engine=engine,
        )

    def _tables(self, inputs: _Inputs, folder: Path) -> TrainingTables:
        pairs = inputs.labelled.pairs
        return build_tables(self.shards, inputs.parts, pairs, config=self.config, folder=folder)

    def _refuse_other_pairs(self, trained_on: TrainingTables, tables: TrainingTables) -> None:
        """Refuses to calibrate by other pairs than those that were trained on.

        Raises:
            RunError: The second reading of the shards, for the fine-tuned encoder, gave others.
        """
        if not tables.has_pairs_of(trained_on):
            workspace = self.workspace
            raise RunError(
                "The shards gave other pairs to the fine-tuned image encoder than to training: "
                "they changed meanwhile, or an image took longer to decode than it may.",
                f"Remove {workspace.features} and {workspace.fine_tuned_features}, and run "
                "`nccleaner fit` again.",
            )

    def _train(
        self, tables: TrainingTables, fingerprint: str, device: str, processes: Processes
    ) -> Trained:
        """Trains, or goes on where an earlier fit of the same stopped."""
        snapshots = Snapshots.open(self.workspace, fingerprint, self.reporter)
        if not snapshots.finished:
            _forget_results(self.workspace)
        return train_scorer(
            tables,
            config=self.config,
            device=device,
            snapshots=snapshots,
            sheet=self.workspace.reconstruction,
            reporter=self.reporter,
            processes=processes,
            folder=self.workspace.training,
        )

    def _write_results(self, fitted: Fitted, inputs: _Inputs, tables: TrainingTables) -> None:
        """Writes what scores, and which pairs the networks saw or were told about.

        Another scorer of the same networks, by other settings of the judges, ends what the last one
        decided.
        """
        workspace, labelled = self.workspace, inputs.labelled
        earlier = scorer_identity(workspace.scorer) if workspace.scorer.exists() else None
        if fitted.scorer.save(workspace.scorer) != earlier and earlier is not None:
            _forget_results(workspace)
        write_parquet(tables.believed_samples(fitted.belief), workspace.pool)
        write_parquet(label_table(item.pair for item in labelled.pairs), workspace.trusted)
        if labelled.set_aside:
            write_parquet(label_table(item.pair for item in labelled.set_aside), workspace.sample)


def _forget_results(workspace: Workspace) -> None:
    """Removes what an earlier fit decided, `run.json` first: from here on there is no fit."""
    workspace.description.unlink(missing_ok=True)
    workspace.inputs.unlink(missing_ok=True)
    workspace.sample.unlink(missing_ok=True)
    for folder in (
        workspace.scores,
        workspace.embeddings,
        workspace.clean,
        workspace.reconstruction,
    ):
        shutil.rmtree(folder, ignore_errors=True)
