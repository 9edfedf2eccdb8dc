"""Training tables to a scorer: two networks trained side by side, then the judges calibrated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nccleaner.config import PurifyConfig, RunConfig
from nccleaner.pipeline.calibrating import calibrate
from nccleaner.pipeline.device import DeviceTables
from nccleaner.pipeline.looking import FROZEN_ROUNDS, look_before_training
from nccleaner.pipeline.pool import TrainingTables
from nccleaner.pipeline.processes import Processes, own_device
from nccleaner.pipeline.reconstructing import write_reconstructions
from nccleaner.pipeline.reporter import Reporter, SilentReporter
from nccleaner.pipeline.snapshots import Snapshots
from nccleaner.pipeline.training import build_architecture, train_networks
from nccleaner.pipeline.workspace import Workspace
from nccleaner.purify.canonical import CanonicalView
from nccleaner.purify.judge import Judge
from nccleaner.purify.mixture import BetaMixture, fit_mixture
from nccleaner.purify.rounds import Belief
from nccleaner.purify.scoring import Scorer
from nccleaner.train.pairs import join_pairs

_ONE_IN_TWENTY = 1.645  # standard deviations of a normal distribution


@dataclass(frozen=True, slots=True)
class Trained:
    """What training gives, before anything is calibrated.

    Attributes:
        scorer: The best snapshot; without judges.
        believed: For each network, how much each pair of the pool is believed.
        epochs: Passes over the pool.
        best_epoch: Counted from 1.
        held_out_auroc: Of the best snapshot, on held-out pairs.
    """

    scorer: Scorer
    believed: list[Tensor]
    epochs: int
    best_epoch: int
    held_out_auroc: float

    @property
    def belief(self) -> npt.NDArray[np.float32]:
        """How much both networks together believe each pair of the pool, [n] in [0, 1]."""
        return mean_belief(self.believed).numpy()


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a fit gives.

    Attributes:
        scorer: The best snapshot with its judges.
        belief: [pool] in [0, 1], how much training believed each pair.
        epochs: Passes over the pool.
        best_epoch: Counted from 1.
        held_out_auroc: Of the best snapshot, on held-out pairs.
        probe_auroc: Of the corrected similarity, on the planted probes.
        noise_rate: Estimated share of mismatched pairs in the pool.
        warning: That the scores are hardly better than chance, or that mismatched pairs are not
            like exchanged ones; may be empty.
    """

    scorer: Scorer
    belief: npt.NDArray[np.float32]
    epochs: int
    best_epoch: int
    held_out_auroc: float
    probe_auroc: float
    noise_rate: float
    warning: str


def train_scorer(
    tables: TrainingTables,
    *,
    config: RunConfig,
    device: str,
    snapshots: Snapshots,
    sheet: Path,
    reporter: Reporter,
    processes: Processes | None = None,
    folder: Path = Path(),
) -> Trained:
    """Looks at the frozen features, and trains the networks.

    Args:
        tables: Features, pool and trusted pairs.
        config: How.
        device: Where.
        snapshots: Where an earlier run left off, and where this one writes after each epoch.
        sheet: Folder for what reconstruction makes of some pairs, where it is switched on.
        reporter: Hears of it.
        processes: Those that train together, of which this is the first; None: it is alone.
        folder: Where the others find the files of the tables.

    Raises:
        TrainingError: Training diverged.
    """
    processes = processes or Processes()
    data = DeviceTables.on(tables, device)
    fit = _mixture_fit(config.purify)
    frozen, belief, siblings = None, None, False
    if not tables.vocabulary:
        title = "Fitting the canonical map and the neighbours"
        with reporter.stage(title, FROZEN_ROUNDS, "rounds") as advance:
            look = look_before_training(data.at_features(), config, fit, lambda: advance(1))
            frozen, belief = look.frozen.to(data.device), look.belief
            siblings = look.siblings
        mixture = belief.mixture
        alone = f" by the trusted pairs alone, as {mixture.fallback}" if mixture.fallback else ""
        reporter.note(
            f"Before training, the frozen features find {mixture.noise_rate:.0%} of the pool "
            f"mismatched{alone}."
        )
    if processes.world.size > 1:
        processes.share(_Task(config, tables.without_files(folder), belief, snapshots.resumed))
    best, training = train_networks(
        data,
        config,
        belief,
        fit=fit,
        snapshots=snapshots,
        reporter=reporter,
        world=processes.world,
    )
    learner = training.learners[0]
    for path in write_reconstructions(learner, data, seed=config.seed, folder=sheet):
        reporter.note(f"Reconstructions are in {path}")
    scorer = Scorer(
        architecture=build_architecture(
            tables.features, config, vocabulary=tables.vocabulary, pool=len(tables.pool)
        ),
        networks=best.networks,
        frozen=frozen,
        canonical=None if frozen is None else _canonical_view(data, training.weights, config),
        siblings=siblings,
        judges=None,
        tokenizer=tables.tokenizer,
    )
    return Trained(scorer, training.weights, training.epoch, best.epoch, best.selection)


def mean_belief(believed: Sequence[Tensor]) -> Tensor:
    """Returns how much all networks together believe each pair, [n] in [0, 1]."""
    return torch.stack([*believed]).mean(dim=0)


def _canonical_view(
    data: DeviceTables, believed: Sequence[Tensor], config: RunConfig
) -> CanonicalView:
    """Fits a last canonical map, to what the networks believe at the end."""
    where = data.at_features()
    weights, pairs = mean_belief(believed), where.pool
    if config.train.learn_trusted:
        matched = where.on_device(data.tables.meta.matched)
        pairs = join_pairs(pairs, matched)
        weights = torch.cat([weights, torch.ones(len(matched))])
    rows = where.frozen(pairs)
    view = CanonicalView.fit(
        rows.images,
        rows.texts,
        weights=weights.to(rows.images.device),
        shrinkage=config.purify.shrinkage,
    )
    return view.to(data.device)


@dataclass(frozen=True, slots=True)
class _Task:
    """What the first process tells the others to train; attributes as in `train_networks`."""

    config: RunConfig
    tables: TrainingTables
    belief: Belief | None
    resumed: bool


def take_part(processes: Processes, workspace: Workspace, folder: Path) -> None:
    """Trains with the first process, whatever it trains; waits until it does.

    Args:
        processes: This one is not the first.
        workspace: The run directory, which the first one writes.
        folder: Where the files of the tables are.

    Raises:
        RunError: The run directory is another one than that of the first process.
        TrainingError: Training diverged.
    """
    task: _Task = processes.share()
    config = task.config
    tables = task.tables.with_files(folder)
    train_networks(
        DeviceTables.on(tables, own_device(config.encoders.device)),
        config,
        task.belief,
        fit=_mixture_fit(config.purify),
        snapshots=Snapshots.beside(workspace, resumed=task.resumed),
        reporter=SilentReporter(),
        world=processes.world,
    )


def judge_scorer(
    trained: Trained,
    tables: TrainingTables,
    *,
    config: RunConfig,
    device: str,
    reporter: Reporter,
) -> Fitted:
    """Calibrates what was trained, by the trusted pairs.

    Args:
        trained: Its scorer gets its judges here.
        tables: Features as the scorer reads them, pool and trusted pairs.
        config: How.
        device: Where.
        reporter: Hears of it.
    """
    scorer, data = trained.scorer, DeviceTables.on(tables, device)
    with reporter.stage("Calibrating by the trusted pairs", 2, "judges") as advance:
        scorer.judges = calibrate(
            scorer, data, config, belief=trained.belief, on_judge=lambda: advance(1)
        )
    fitted = scorer.judges.fitted
    probes = fitted.labelled
    if len(probes.matched) < len(tables.probe_matched):
        reporter.note(
            f"The {(~probes.matched).sum():,} planted pairs that are labelled 0 are harder to tell "
            "from matched ones than exchanged captions are: they alone say what mismatched pairs "
            "are like."
        )
    probe_auroc = _auroc(probes.corrected_similarity, probes.matched)
    return Fitted(
        scorer=scorer,
        belief=trained.belief,
        epochs=trained.epochs,
        best_epoch=trained.best_epoch,
        held_out_auroc=trained.held_out_auroc,
        probe_auroc=probe_auroc,
        noise_rate=fitted.noise_rate,
        warning=" ".join(
            filter(None, (_warn_of_chance(probe_auroc, probes.matched), _warn_of_others(fitted)))
        ),
    )


def _mixture_fit(config: PurifyConfig) -> Callable[..., BetaMixture]:
    return partial(
        fit_mixture,
        prior=config.prior,
        max_iterations=config.max_iterations,
        tolerance=config.tolerance,
    )


def _warn_of_chance(auroc: float, matched: npt.NDArray[np.bool_]) -> str:
    """Returns a warning where one random score in twenty does as well (Mann-Whitney's U)."""
    good, bad = int(matched.sum()), int((~matched).sum())
    spread = ((good + bad + 1) / (12 * good * bad)) ** 0.5
    if auroc > 0.5 + _ONE_IN_TWENTY * spread:
        return ""
    return (
        f"The scores tell mismatched pairs of the pool from matched ones hardly better than chance "
        f"(AUROC {auroc:.2f}): purging by them drops pairs at random. Look whether the trusted "
        "pairs are what they are said to be, and whether the encoders are made for these images "
        "and captions."
    )


def _warn_of_others(judge: Judge) -> str:
    """Returns a warning where mismatched pairs are not like exchanged ones."""
    if judge.near_misses is None:
        return ""
    return (
        "There are pairs that are like neither trusted nor exchanged ones: captions that are "
        "nearly right, or trusted pairs that are easier than the others. Clean probabilities take "
        f"them into account: {judge.noise_rate:.0%} of the pool are mismatched. Label pairs drawn "
        "at random from the shards to know more (docs/cutoffs.md)."
    )


def _auroc(scores: npt.NDArray[np.float32], matched: npt.NDArray[np.bool_]) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(matched, scores))
