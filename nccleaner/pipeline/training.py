"""The training of the networks as the configuration wants it, from where an earlier run left it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import numpy.typing as npt
import torch

from nccleaner.config import RunConfig
from nccleaner.errors import UsageError
from nccleaner.model.products import float32_products
from nccleaner.pipeline.backbones import GRU
from nccleaner.pipeline.device import DeviceTables
from nccleaner.pipeline.reconstructing import build_reconstruction
from nccleaner.pipeline.reporter import Reporter
from nccleaner.pipeline.snapshots import Best, Snapshots, best_networks
from nccleaner.purify.mixture import BetaMixture
from nccleaner.purify.rounds import Belief, next_belief, trusted_belief
from nccleaner.train.cotrain import CoTraining, Purify, RoundScores, Schedule
from nccleaner.train.learner import Learner, Precision
from nccleaner.train.networks import Architecture, build_networks
from nccleaner.train.objective import LossWeights
from nccleaner.train.pairs import Features
from nccleaner.train.rates import Rates
from nccleaner.train.world import ALONE, World


def train_networks(
    data: DeviceTables,
    config: RunConfig,
    belief: Belief | None,
    *,
    fit: Callable[..., BetaMixture],
    snapshots: Snapshots,
    reporter: Reporter,
    world: World = ALONE,
) -> tuple[Best, CoTraining]:
    """Trains what is left to train.

    Args:
        data: The training tables.
        config: How.
        belief: What the frozen evidence says of the pool; None where there is none.
        fit: `fit_mixture` with its settings bound.
        snapshots: Where an earlier run left off, and where this one writes after each epoch.
        reporter: Hears of it.
        world: The processes that train together; each calls this with the same tables.

    Returns:
        The best snapshot, and the training as the last epoch left it.

    Raises:
        TrainingError: Training diverged.
    """
    count = config.train.networks
    steps, epochs, _ = config.train.length(len(data.pool))
    training = _build_training(data, config, belief, fit, world)
    title = (
        f"Training {'one network' if count == 1 else 'two networks'} on {len(data.pool):,} pairs"
    )
    # Dropout draws from the global generator; the caller's is left as it was.
    with (
        torch.random.fork_rng([data.device] if data.device.type == "cuda" else []),
        float32_products(rounded=config.train.precision != "float32"),
        cudnn_settings(config),
        reporter.stage(title, count * steps * epochs, "steps") as advance,
    ):
        torch.manual_seed(config.seed)
        best = snapshots.start(training)
        if training.epoch:
            reporter.note(_say_resumed(training.epoch, epochs))
            advance(count * steps * training.epoch)
        elif epochs > config.train.epochs:
            reporter.note(
                f"{epochs} epochs instead of {config.train.epochs}: train.min_steps is "
                f"{config.train.min_steps}, and an epoch of this pool has {steps}."
            )
        for report in training.epochs(lambda: advance(1)):
            if best is None or report.selection > best.selection:
                best = Best(report.epoch, report.selection, best_networks(training))
            snapshots.write(training, report, best, finished=report.epoch == epochs)
            reporter.note(
                f"Epoch {report.epoch:>2} of {epochs}: loss {report.main_loss:.3f}, "
                f"believed {report.believed:.0%}, held-out AUROC {report.selection:.4f}"
            )
    assert best is not None, "there is one epoch at least"
    return best, training


def refuse_to_divide(config: RunConfig) -> None:
    """Refuses settings that one process only can train with.

    Raises:
        UsageError: Reconstruction is switched on, or dropout inside a GRU.
    """
    train, model = config.train, config.model
    if train.image_reconstruction or train.caption_reconstruction:
        raise UsageError(
            "Reconstruction is trained by one process only.",
            "Start without torchrun, or with --set train.image_reconstruction=0 "
            "--set train.caption_reconstruction=0.",
        )
    if config.encoders.text == GRU and model.gru_layers > 1 and model.dropout != 0:
        raise UsageError(
            f"Dropout between the {model.gru_layers} layers of the GRU is for one process only: "
            "several would not hide the same.",
            "Start without torchrun, or with --set model.dropout=0 or model.gru_layers=1.",
        )


def build_architecture(
    features: Features, config: RunConfig, *, vocabulary: int = 0, pool: int
) -> Architecture:
    """Returns the shape of the networks.

    Args:
        features: What they take; of captions features, or tokens.
        config: The other widths.
        vocabulary: Token ids; 0 where captions come as features.
        pool: Pairs that they are trained on.
    """
    model = config.model
    return Architecture(
        image_width=features.images.shape[1],
        text_width=0 if vocabulary else features.texts.shape[1],
        vocabulary=vocabulary,
        embedding_width=model.embedding_width,
        gru_layers=model.gru_layers,
        joint_width=model.joint_width,
        similarity_width=model.similarity_width,
        meta_hidden_width=model.meta_hidden_width,
        dropout=model.dropout_for(pool),
        temperature=model.temperature,
    )


def loss_weights(config: RunConfig) -> LossWeights:
    """Returns the weights of the main loss."""
    train = config.train
    return LossWeights(
        info_nce=train.info_nce,
        hinge=train.hinge,
        modality=train.modality,
        specific=train.specific,
        margin=train.margin,
        adaptive_margin=train.adaptive_margin,
        modality_margin=train.modality_margin,
    )


def learning_rates(config: RunConfig, *, total_steps: int) -> Rates:
    """Returns the rates of the steps of a learner."""
    train = config.train
    return Rates(
        schedule=train.schedule,
        main=train.learning_rate,
        meta=train.meta_learning_rate,
        rise_steps=train.warm_up_steps,
        fall_at=train.fall_at,
        total_steps=total_steps,
    )


def training_precision(config: RunConfig, device: torch.device) -> Precision:
    """Returns what losses are computed with on a device."""
    if config.train.precision != "auto":
        return config.train.precision
    if device.type != "cuda":
        return "float32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"


def cudnn_settings(config: RunConfig) -> AbstractContextManager[None]:
    """Lets cuDNN's layers give the same in every run, and round only where products may."""
    return torch.backends.cudnn.flags(
        enabled=torch.backends.cudnn.enabled,
        deterministic=True,
        allow_tf32=config.train.precision != "float32",
    )


def _build_training(
    data: DeviceTables,
    config: RunConfig,
    belief: Belief | None,
    fit: Callable[..., BetaMixture],
    world: World,
) -> CoTraining:
    train = config.train
    _, epochs, warm_up_epochs = train.length(len(data.pool))
    starts_frozen = belief is not None and config.purify.belief == "frozen"
    return CoTraining(
        learners=[_build_learner(data, config, index, world) for index in range(train.networks)],
        features=data.features,
        pool=data.pool,
        meta=type(data.tables.meta)(*(data.on_device(pairs) for pairs in data.tables.meta)),
        held_out=data.on_device(data.tables.held_out.matched),
        purify=_purification(config, belief, fit),
        first_weights=belief.clean_probability if belief and starts_frozen else None,
        schedule=Schedule(
            epochs=epochs,
            warm_up_epochs=warm_up_epochs,
            batch_size=train.batch_size,
            trusted_batch_size=train.trusted_batch_size,
            hard_mismatched=train.hard_mismatched,
            gradient=train.meta_gradient,
            # Where their scores decide what is believed, they must not be learned by heart.
            learn_trusted=train.learn_trusted and starts_frozen,
            log_every=train.log_every,
        ),
        seed=config.seed,
        world=world,
    )


def _build_learner(data: DeviceTables, config: RunConfig, index: int, world: World) -> Learner:
    train = config.train
    seed = 2 * config.seed + index
    steps, epochs, _ = train.length(len(data.pool))
    tables = data.tables
    architecture = build_architecture(
        tables.features, config, vocabulary=tables.vocabulary, pool=len(tables.pool)
    )
    main_net, meta_net = build_networks(architecture, seed=seed)
    return Learner(
        main_net=main_net.to(data.device),
        meta_net=meta_net.to(data.device),
        loss_weights=loss_weights(config),
        rates=learning_rates(config, total_steps=epochs * steps),
        weight_decay=train.weight_decay,
        averaging=train.averaging,
        precision=training_precision(config, data.device),
        reconstruction=build_reconstruction(data, config, seed=seed),
        world=world,
    )


def _purification(
    config: RunConfig, belief: Belief | None, fit: Callable[..., BetaMixture]
) -> Purify | None:
    if config.purify.belief == "full":
        return None

    def purify(scores: RoundScores) -> npt.NDArray[np.float32]:
        if belief is not None and config.purify.belief == "frozen":
            return next_belief(belief.clean_probability, scores.picked)
        return trusted_belief(scores.pool, scores.matched, scores.mismatched, fit=fit)

    return purify


def _say_resumed(epoch: int, epochs: int) -> str:
    if epoch == epochs:
        return "The networks are trained: inputs and settings are those of the last fit."
    return f"Training goes on after epoch {epoch} of {epochs}, where it was interrupted."
