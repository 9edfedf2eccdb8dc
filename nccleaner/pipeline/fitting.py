"""Training tables to a scorer: two networks trained side by side, then the judges calibrated."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from nccleaner.config import PurifyConfig, RunConfig
from nccleaner.model.mfsr import MainNet
from nccleaner.model.mscn import MetaNet
from nccleaner.pipeline.calibrating import FROZEN_ROUNDS, calibrate, look_before_training
from nccleaner.pipeline.device import DeviceTables
from nccleaner.pipeline.pool import TrainingTables
from nccleaner.pipeline.reporter import Reporter
from nccleaner.purify.mixture import BetaMixture, fit_mixture
from nccleaner.purify.rounds import Belief, next_belief, trusted_belief
from nccleaner.purify.scoring import Scorer
from nccleaner.train.cotrain import CoTraining, RoundScores, Schedule
from nccleaner.train.learner import Learner, StepSizes
from nccleaner.train.networks import Architecture, build_networks
from nccleaner.train.objective import LossWeights


@dataclass(frozen=True, slots=True)
class Fitted:
    """What training gives.

    Attributes:
        scorer: The best snapshot with its judges.
        epochs: Passes over the pool.
        best_epoch: Counted from 1.
        held_out_auroc: Of the best snapshot, on held-out pairs.
        probe_auroc: Of the corrected similarity, on the planted probes.
        noise_rate: Estimated share of mismatched pairs in the pool.
        fallback: Why the pool's own mixture was not used; may be empty.
    """

    scorer: Scorer
    epochs: int
    best_epoch: int
    held_out_auroc: float
    probe_auroc: float
    noise_rate: float
    fallback: str


def fit_scorer(
    tables: TrainingTables,
    *,
    config: RunConfig,
    device: str,
    metrics: Path,
    reporter: Reporter,
) -> Fitted:
    """Trains and calibrates.

    Args:
        tables: Features, pool and trusted pairs.
        config: How.
        device: Where.
        metrics: One JSON object an epoch goes here.
        reporter: Hears of it.

    Raises:
        TrainingError: The losses diverged.
    """
    data = DeviceTables.on(tables, device)
    fit = _mixture_fit(config.purify)
    frozen, belief = None, None
    if not tables.vocabulary:
        title = "Fitting the ridge map and the neighbours"
        with reporter.stage(title, FROZEN_ROUNDS, "rounds") as advance:
            frozen, belief = look_before_training(data, config, fit, lambda: advance(1))
        reporter.note(
            f"Before training, the frozen features find {belief.mixture.noise_rate:.0%} of the "
            "pool mismatched."
        )
    best, best_epoch, selection = _train(
        data, config, belief, fit=fit, metrics=metrics, reporter=reporter
    )
    architecture = _architecture(tables, config)
    scorer = Scorer(
        architecture=architecture,
        networks=best,
        frozen=frozen,
        judges=None,
        tokenizer=tables.tokenizer,
    )
    with reporter.stage("Calibrating by the trusted pairs", 2, "judges") as advance:
        scorer.judges = calibrate(scorer, data, config, fit, lambda: advance(1))
    fitted = scorer.judges.fitted
    return Fitted(
        scorer=scorer,
        epochs=config.train.schedule(len(data.pool))[1],
        best_epoch=best_epoch,
        held_out_auroc=selection,
        probe_auroc=_auroc(fitted.labelled.corrected_similarity, fitted.labelled.matched),
        noise_rate=fitted.noise_rate,
        fallback=fitted.mixture.fallback,
    )


def _mixture_fit(config: PurifyConfig) -> Callable[..., BetaMixture]:
    return partial(
        fit_mixture,
        prior=config.prior,
        max_iterations=config.max_iterations,
        tolerance=config.tolerance,
    )


def _architecture(tables: TrainingTables, config: RunConfig) -> Architecture:
    model = config.model
    return Architecture(
        image_width=tables.features.images.shape[1],
        text_width=0 if tables.vocabulary else tables.features.texts.shape[1],
        vocabulary=tables.vocabulary,
        embedding_width=model.embedding_width,
        gru_layers=model.gru_layers,
        joint_width=model.joint_width,
        similarity_width=model.similarity_width,
        meta_hidden_width=model.meta_hidden_width,
        dropout=model.dropout,
        temperature=model.temperature,
    )


def _train(
    data: DeviceTables,
    config: RunConfig,
    belief: Belief | None,
    *,
    fit: Callable[..., BetaMixture],
    metrics: Path,
    reporter: Reporter,
) -> tuple[list[tuple[MainNet, MetaNet]], int, float]:
    train = config.train
    device = str(data.features.images.device)
    steps, epochs, warm_up_epochs = train.schedule(len(data.pool))
    learners = []
    for index in range(2):
        main_net, meta_net = build_networks(
            _architecture(data.tables, config), seed=2 * config.seed + index
        )
        learners.append(
            Learner(
                main_net=main_net.to(device),
                meta_net=meta_net.to(device),
                loss_weights=LossWeights(
                    info_nce=train.info_nce,
                    hinge=train.hinge,
                    modality=train.modality,
                    specific=train.specific,
                    margin=train.margin,
                    modality_margin=train.modality_margin,
                ),
                step_sizes=StepSizes(
                    main=train.learning_rate,
                    meta=train.meta_learning_rate,
                    weight_decay=train.weight_decay,
                    warm_up_steps=train.warm_up_steps,
                    averaging=train.averaging,
                ),
                total_steps=epochs * steps,
            )
        )

    def purify(scores: RoundScores) -> npt.NDArray[np.float32]:
        if belief is not None:
            return next_belief(belief.clean_probability, scores.pool)
        return trusted_belief(scores.pool, scores.matched, scores.mismatched, fit=fit)

    training = CoTraining(
        learners=learners,
        features=data.features,
        pool=data.pool,
        meta=type(data.tables.meta)(*(data.on_device(pairs) for pairs in data.tables.meta)),
        held_out=data.on_device(data.tables.held_out.matched),
        purify=purify,
        first_weights=None if belief is None else belief.clean_probability,
        schedule=Schedule(
            epochs=epochs,
            warm_up_epochs=warm_up_epochs,
            batch_size=train.batch_size,
            trusted_batch_size=train.trusted_batch_size,
            gradient=train.meta_gradient,
        ),
        seed=config.seed,
    )
    best: list[tuple[MainNet, MetaNet]] = []
    best_epoch, selection = 0, -1.0
    metrics.parent.mkdir(parents=True, exist_ok=True)
    title = f"Training two networks on {len(data.pool):,} pairs"
    # Dropout draws from the global generator; the caller's is left as it was.
    with (
        torch.random.fork_rng(),
        _fast_products(),
        metrics.open("w", encoding="utf-8") as log,
        reporter.stage(title, 2 * steps * epochs, "steps") as advance,
    ):
        torch.manual_seed(config.seed)
        for report in training.epochs(lambda: advance(1)):
            log.write(json.dumps(asdict(report)) + "\n")
            log.flush()
            reporter.note(
                f"Epoch {report.epoch:>2} of {epochs}: loss {report.main_loss:.3f}, "
                f"believed {report.believed:.0%}, held-out AUROC {report.selection:.4f}"
            )
            if report.selection > selection:
                best_epoch, selection = report.epoch, report.selection
                best = [
                    (copy.deepcopy(learner.average_net), copy.deepcopy(learner.meta_net))
                    for learner in learners
                ]
    return best, best_epoch, selection


@contextmanager
def _fast_products() -> Iterator[None]:
    """Lets matrix products round their factors (bfloat16 on CPU, TF32 on CUDA) and sum in float32.

    Halves the time of a training step on a CPU with AMX; scoring keeps full precision.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _auroc(scores: npt.NDArray[np.float32], matched: npt.NDArray[np.bool_]) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(matched, scores))
