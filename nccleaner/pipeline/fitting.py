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
from torch import Tensor

from nccleaner.config import PurifyConfig, RunConfig
from nccleaner.model.mfsr import MainNet
from nccleaner.model.mscn import MetaNet
from nccleaner.pipeline.pool import TrainingTables
from nccleaner.pipeline.reporter import Reporter
from nccleaner.purify.frozen import Frozen, FrozenEvidence
from nccleaner.purify.judge import Judge, fit_judge
from nccleaner.purify.mixture import Beta, BetaMixture, fit_mixture
from nccleaner.purify.noise import NoiseRate, estimate_noise_rate
from nccleaner.purify.rounds import Belief, first_belief, next_belief, trusted_belief
from nccleaner.purify.scoring import Evidence, Judges, Scorer
from nccleaner.train.cotrain import CoTraining, RoundScores, Schedule
from nccleaner.train.learner import Learner, StepSizes
from nccleaner.train.networks import Architecture, build_networks
from nccleaner.train.objective import LossWeights
from nccleaner.train.pairs import Features, Pairs, exchange_captions

# Mismatched pairs that are made of one trusted pair; its caption suits few other images.
_EXCHANGES = 3
_FROZEN_ROUNDS = 2


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
    data = _Data.on(tables, device)
    fit = _mixture_fit(config.purify)
    frozen, belief = None, None
    if not tables.vocabulary:
        title = "Fitting the ridge map and the neighbours"
        with reporter.stage(title, _FROZEN_ROUNDS, "rounds") as advance:
            frozen, belief = _look_before_training(data, config, fit, lambda: advance(1))
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
        scorer.judges = _calibrate(scorer, data, config, fit, lambda: advance(1))
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


@dataclass(frozen=True, slots=True)
class _Data:
    """The training tables on the device."""

    tables: TrainingTables
    features: Features
    identities: Tensor
    pool: Pairs
    probes: int

    @staticmethod
    def on(tables: TrainingTables, device: str) -> _Data:
        return _Data(
            tables,
            Features(tables.features.images.to(device), tables.features.texts.to(device)),
            tables.identities.to(device),
            _move(tables.pool, device),
            len(tables.probe_matched),
        )

    def frozen(self, pairs: Pairs) -> Frozen:
        return Frozen(
            self.features.images[pairs.image_rows].float(),
            self.features.texts[pairs.text_rows].float(),
            self.identities[pairs.image_rows],
        )

    def on_device(self, pairs: Pairs) -> Pairs:
        return _move(pairs, str(self.features.images.device))


def _move(pairs: Pairs, device: str) -> Pairs:
    return Pairs(pairs.image_rows.to(device), pairs.text_rows.to(device))


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


def _look_before_training(
    data: _Data, config: RunConfig, fit: Callable[..., BetaMixture], on_round: Callable[[], None]
) -> tuple[FrozenEvidence, Belief]:
    """Fits the frozen evidence; from the second round on weighted by what the last one believes."""
    generator = torch.Generator().manual_seed(config.seed)
    pool = data.frozen(data.pool)
    meta = data.tables.meta
    matched = data.frozen(data.on_device(meta.matched))
    mismatched = data.frozen(data.on_device(_mismatched(meta.matched, meta.mismatched, generator)))
    weights = torch.ones(len(pool.images), device=pool.images.device)
    for _ in range(_FROZEN_ROUNDS):
        evidence = FrozenEvidence.fit(
            pool,
            weights=weights,
            references=config.purify.references,
            neighbours=config.purify.neighbours,
            penalty=config.purify.ridge,
            generator=generator,
        )
        belief = first_belief(
            *(evidence.of(pairs).cpu().numpy() for pairs in (pool, matched, mismatched)), fit=fit
        )
        weights = torch.from_numpy(belief.clean_probability).to(weights.device)
        on_round()
    return evidence, belief


def _mismatched(matched: Pairs, labelled: Pairs, generator: torch.Generator) -> Pairs:
    """Mismatched pairs made by exchanging captions, and those that a person labelled."""
    made = [exchange_captions(matched, generator=generator) for _ in range(_EXCHANGES)]
    return _joined(*made, labelled)


def _train(
    data: _Data,
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


def _calibrate(
    scorer: Scorer,
    data: _Data,
    config: RunConfig,
    fit: Callable[..., BetaMixture],
    on_judge: Callable[[], None],
) -> Judges:
    """Fits the judge of the pool to the planted probes, that of other pairs to the held-out."""
    noisy = len(data.pool) - data.probes
    pool = scorer.gather(data.features, data.pool, identities=data.identities)
    of_pool = [evidence[:noisy] for evidence in pool.of_networks]
    noise = None if scorer.frozen is None else _noise_rate(scorer.frozen, data, config.seed)
    fitted = fit_judge(
        [evidence[noisy:] for evidence in pool.of_networks],
        pool.similarity[noisy:],
        data.tables.probe_matched,
        pool_evidence=of_pool,
        fit=fit,
        seed=config.seed,
        noise=noise,
    )
    on_judge()
    held_out = data.tables.held_out
    generator = torch.Generator().manual_seed(config.seed)
    matched = data.on_device(held_out.matched)
    mismatched = data.on_device(_mismatched(held_out.matched, held_out.mismatched, generator))
    labelled = _joined(matched, mismatched)
    evidence: Evidence = scorer.gather(data.features, labelled, identities=data.identities)
    unseen = _judge_of_unseen(evidence, len(matched), of_pool, fitted, config)
    on_judge()
    return Judges(fitted, unseen)


def _noise_rate(frozen: FrozenEvidence, data: _Data, seed: int) -> NoiseRate:
    """Estimates the pool's noise rate from the frozen evidence and all trusted pairs."""
    noisy = len(data.pool) - data.probes
    tables = data.tables
    probes = tables.pool.take(torch.arange(noisy, len(tables.pool)))
    own = probes.take(torch.from_numpy(np.flatnonzero(tables.probe_matched)))
    matched = _joined(tables.meta.matched, tables.held_out.matched, own)
    labelled = _joined(tables.meta.mismatched, tables.held_out.mismatched)
    mismatched = _mismatched(matched, labelled, torch.Generator().manual_seed(seed))
    pool = data.pool.take(torch.arange(noisy))
    evidence = (
        frozen.of(data.frozen(pairs)).cpu().numpy()
        for pairs in (pool, data.on_device(matched), data.on_device(mismatched))
    )
    return estimate_noise_rate(*evidence, seed=seed)


def _joined(*parts: Pairs) -> Pairs:
    return Pairs(
        torch.cat([pairs.image_rows for pairs in parts]),
        torch.cat([pairs.text_rows for pairs in parts]),
    )


def _judge_of_unseen(
    evidence: Evidence,
    matched: int,
    of_pool: list[npt.NDArray[np.float32]],
    fitted: Judge,
    config: RunConfig,
) -> Judge:
    """There is no pool of unseen pairs yet: components of the held-out, the pool's noise rate."""

    def components(
        pool: npt.ArrayLike,  # noqa: ARG001
        *,
        matched: npt.NDArray[np.float64],
        mismatched: npt.NDArray[np.float64],
    ) -> BetaMixture:
        return BetaMixture(Beta.fit(matched), Beta.fit(mismatched), fitted.noise_rate)

    return fit_judge(
        evidence.of_networks,
        evidence.similarity,
        np.arange(len(evidence.similarity)) < matched,
        pool_evidence=of_pool,
        fit=components,
        seed=config.seed,
    )


def _auroc(scores: npt.NDArray[np.float32], matched: npt.NDArray[np.bool_]) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(matched, scores))
