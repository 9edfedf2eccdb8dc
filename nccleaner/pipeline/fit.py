"""`fit`: shards and a trusted file to a run directory with a scorer."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from nccleaner.config import RunConfig
from nccleaner.data.features import FeaturePart
from nccleaner.data.locations import find_shards, refuse_inside_input
from nccleaner.data.matching import check_rows
from nccleaner.data.trusted import TrustedTable, read_trusted
from nccleaner.errors import InputError
from nccleaner.files import write_parquet
from nccleaner.pipeline.backbones import Backbones, limits_of
from nccleaner.pipeline.engines import Engine, EngineName, open_engine
from nccleaner.pipeline.extraction import FeatureStore, summarise
from nccleaner.pipeline.finetuning import fine_tune_scorer
from nccleaner.pipeline.fitting import judge_scorer, take_part, train_scorer
from nccleaner.pipeline.labelled import label_table, read_labelled
from nccleaner.pipeline.occupied import occupied
from nccleaner.pipeline.pool import build_tables
from nccleaner.pipeline.processes import Processes, joined
from nccleaner.pipeline.reporter import Reporter, SilentReporter
from nccleaner.pipeline.results import FitResult
from nccleaner.pipeline.snapshots import Snapshots, training_fingerprint
from nccleaner.pipeline.training import refuse_to_divide
from nccleaner.pipeline.workspace import RunDescription, Workspace
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
        return _learn(found, trusted, workspace, config, engine, reporter, processes)


def _learn(
    found: Sequence[Shard],
    trusted: TrustedTable,
    workspace: Workspace,
    config: RunConfig,
    engine: EngineName,
    reporter: Reporter,
    processes: Processes,
) -> FitResult:
    start = time.monotonic()
    backbones = Backbones(config.encoders)
    trainable = backbones.image_network() if config.train.fine_tune_epochs else None
    store, parts = _extract(found, workspace.features, backbones, config, engine, reporter)
    reading = summarise(parts)
    if not reading.pairs:
        problems = "".join(f" {name}: {what}." for name, what in list(reading.problems.items())[:1])
        raise InputError(
            f"The shards hold {reading.samples:,} samples and no pair among them.{problems}",
            "Give shards with images and captions.",
        )
    read = partial(
        read_labelled,
        trusted,
        found,
        limits=limits_of(config.data),
        sample=config.trusted.sample,
        seed=config.seed,
    )
    labelled = read(parts, backbones=backbones)
    if labelled.warning:
        reporter.warn(labelled.warning)
    training_folder = workspace.training
    try:
        tables = build_tables(found, parts, labelled.pairs, config=config, folder=training_folder)
        fingerprint = training_fingerprint(tables, config, backbones.device)
        snapshots = Snapshots.open(workspace, fingerprint, reporter)
        if not snapshots.finished:
            _forget_results(workspace)
        training_start = time.monotonic()
        trained = train_scorer(
            tables,
            config=config,
            device=backbones.device,
            snapshots=snapshots,
            sheet=workspace.reconstruction,
            reporter=reporter,
            processes=processes,
            folder=training_folder,
        )
        if trainable is not None:
            trained = fine_tune_scorer(
                trained,
                tables,
                found,
                labelled.pairs,
                network=trainable,
                spec=backbones.image.spec,
                config=config,
                device=backbones.device,
                fingerprint=fingerprint,
                workspace=workspace,
                folder=training_folder,
                reporter=reporter,
            )
            # From here on this is the run's image encoder.
            backbones = Backbones(config.encoders, workspace.fine_tuned)
            features = workspace.fine_tuned_features
            store, parts = _extract(found, features, backbones, config, engine, reporter)
            labelled = read(parts, backbones=backbones)
            tables = build_tables(
                found,
                parts,
                labelled.pairs,
                config=config,
                folder=training_folder / "fine-tuned",
            )
        fitted = judge_scorer(
            trained, tables, config=config, device=backbones.device, reporter=reporter
        )
        if fitted.warning:
            reporter.warn(fitted.warning)
        training_s = time.monotonic() - training_start
        write_parquet(tables.pool_samples, workspace.pool)
    finally:
        shutil.rmtree(training_folder, ignore_errors=True)
    write_parquet(label_table(item.pair for item in labelled.pairs), workspace.trusted)
    if labelled.set_aside:
        write_parquet(label_table(item.pair for item in labelled.set_aside), workspace.sample)
    fitted.scorer.save(workspace.scorer)
    probes = len(tables.probe_matched)
    held_out = sum(len(pairs) for pairs in tables.held_out)
    result = FitResult(
        run=workspace.root,
        reading=reading,
        trusted={
            "meta": sum(len(pairs) for pairs in tables.meta),
            "probe": probes,
            "held_out": held_out,
            "sample": len(labelled.set_aside),
        },
        trusted_problems=labelled.problems,
        warning=" ".join(filter(None, (labelled.warning, fitted.warning))),
        pool=len(tables.pool),
        epochs=fitted.epochs,
        best_epoch=fitted.best_epoch,
        held_out_auroc=fitted.held_out_auroc,
        probe_auroc=fitted.probe_auroc,
        noise_rate=fitted.noise_rate,
        training_s=training_s,
        seconds=time.monotonic() - start,
    )
    RunDescription(
        config=config,
        shards=tuple(found),
        trusted=trusted.path.absolute(),
        image_encoder=store.image_encoder,
        text_encoder=store.text_encoder,
        device=backbones.device,
        result={**asdict(result), "run": str(result.run)},
    ).write(workspace.description)
    return result


def _extract(
    shards: Sequence[Shard],
    root: Path,
    backbones: Backbones,
    config: RunConfig,
    engine: EngineName,
    reporter: Reporter,
) -> tuple[FeatureStore, list[FeaturePart]]:
    """Opens the feature cache, and fills it."""
    with open_engine(engine) as opened:
        store = _open_store(root, backbones, config, opened, reporter)
        return store, store.parts(shards, reporter)


def _open_store(
    root: Path, backbones: Backbones, config: RunConfig, engine: Engine, reporter: Reporter
) -> FeatureStore:
    with reporter.stage("Loading encoders", 2, "encoders") as advance:
        image_encoder = backbones.image.fingerprint
        advance(1)
        text_encoder = backbones.text.fingerprint if backbones.text else None
        advance(1)
    return FeatureStore(
        root,
        backbones,
        config.data,
        image_encoder,
        text_encoder,
        targets=config.train.image_reconstruction > 0,
        engine=engine,
    )


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
