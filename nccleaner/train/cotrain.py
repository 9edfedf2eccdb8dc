"""Two networks trained side by side, each on what the other believes to be matched.

MSCN section 3.3 and Algorithm 1; co-teaching as in NCR (Huang et al., NeurIPS 2021). One network
alone trains on what itself believes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from nccleaner.errors import TrainingError
from nccleaner.model.contrast import REFERENCES, Contrast
from nccleaner.train.learner import Learner, scan_pairs
from nccleaner.train.meta_gradient import MetaGradient
from nccleaner.train.objective import NoisyBatch, mismatched_for
from nccleaner.train.pairs import (
    Features,
    Pairs,
    TrustedPairs,
    cycle_batches,
    exchange_captions,
    join_pairs,
    send,
)
from nccleaner.train.reports import EpochReport, StepReport
from nccleaner.train.state import random_state, set_random_state
from nccleaner.train.world import ALONE, World

Scores = npt.NDArray[np.float32]


class RoundScores(NamedTuple):
    """What a round of purification sees of one network.

    `pool`, `matched` and `mismatched` are corrected similarities in (0, 1).

    Attributes:
        picked: [n] in (0, 1), how likely the network picks the caption for the image, and the image
            for the caption, among as many others as a batch has: the geometric mean, e to the minus
            InfoNCE loss.
        pool: [n], every pair of the pool.
        matched: Trusted matched pairs of the meta part.
        mismatched: Mismatched ones, made by exchanging captions or labelled by a person.
    """

    picked: Scores
    pool: Scores
    matched: Scores
    mismatched: Scores


# Decides how much each pair of the pool is believed: [n] in [0, 1].
Purify = Callable[[RoundScores], Scores]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and in which portions.

    Attributes:
        epochs: Passes over the pool, warm-up included.
        warm_up_epochs: Passes before the first purification.
        batch_size: Pairs of the pool in a step.
        trusted_batch_size: Trusted matched pairs in a step.
        hard_mismatched: Whether half of the mismatched pairs of a step are hard ones [O].
        gradient: How the meta gradient is taken.
        learn_trusted: Whether the main networks too are trained on the trusted matched pairs of the
            meta part, as pairs that are fully believed [O].
        log_every: Steps of a network from one `StepReport` to the next.
    """

    epochs: int
    warm_up_epochs: int
    batch_size: int
    trusted_batch_size: int
    hard_mismatched: bool
    gradient: MetaGradient
    learn_trusted: bool
    log_every: int


class CoTraining:
    """Trains learners on one pool; iterate `epochs`, keep the snapshot you like best.

    Args:
        learners: Two, started from different seeds, or one.
        features: The table that all pairs point into.
        pool: The noisy pairs, the planted probes among them.
        meta: The trusted pairs that guide training.
        held_out: Trusted matched pairs that choose the snapshot.
        purify: Decides after each epoch how much each pair is believed; None: as at first.
        first_weights: [n] in [0, 1], how much each pair is believed during warm-up; None: fully.
        schedule: How long and in which portions.
        seed: Same inputs, seed, device and state of torch's generator (dropout draws from it) give
            the same networks.
        world: The processes that train together, each with all of these and the same state of
            torch's generator; their learners have the same world.
    """

    def __init__(
        self,
        *,
        learners: Sequence[Learner],
        features: Features,
        pool: Pairs,
        meta: TrustedPairs,
        held_out: Pairs,
        purify: Purify | None,
        first_weights: Scores | None,
        schedule: Schedule,
        seed: int,
        world: World = ALONE,
    ) -> None:
        self.learners = learners
        self._features = features
        self._pool = pool
        self._meta = meta
        # Batches are drawn on the CPU, where nobody waits for a GPU to tell what was drawn.
        self._drawn_pool = pool.to("cpu")
        self._drawn_meta = TrustedPairs(meta.matched.to("cpu"), meta.mismatched.to("cpu"))
        self._learned = (
            join_pairs(self._drawn_pool, self._drawn_meta.matched)
            if schedule.learn_trusted
            else self._drawn_pool
        )
        self._world = world
        self._held_out = held_out
        self._purify = purify
        self._schedule = schedule
        self._generator = torch.Generator().manual_seed(seed)
        weights = np.ones(len(pool), np.float32) if first_weights is None else first_weights
        self._weights = [torch.from_numpy(weights) for _ in learners]
        self.epoch = 0  # the last one that is whole

    def steps_per_epoch(self) -> int:
        """Returns the steps of one learner in one epoch."""
        return max(len(self._pool) // self._schedule.batch_size, 1)

    def epochs(self, on_step: Callable[[], None]) -> Iterator[EpochReport]:
        """Trains what is left; yields after every epoch, when weights and state may be copied.

        Args:
            on_step: Called after every step of a learner.

        Raises:
            TrainingError: A loss or a score is not finite.
        """
        for epoch in range(self.epoch + 1, self._schedule.epochs + 1):
            warm_up = epoch <= self._schedule.warm_up_epochs
            if epoch == self._schedule.warm_up_epochs + 1:
                for learner in self.learners:
                    learner.reset_optimisers()
            trained = []
            for index in range(len(self.learners)):
                trained.append(self._train(index, epoch, warm_up, on_step))
                if not warm_up:
                    self._decide_for_other(index)  # by this one as just updated [P]
            if epoch == self._schedule.warm_up_epochs:
                for index in range(len(self.learners)):
                    self._decide_for_other(index)
            self.epoch = epoch
            yield EpochReport(
                epoch=epoch,
                main_loss=float(np.mean([one.main_loss for one in trained])),
                meta_loss=float(np.mean([one.meta_loss for one in trained])),
                reconstruction=self._reconstruction_losses(),
                believed=float(torch.stack(self._weights).mean()),
                selection=self._selection(),
                steps=tuple(step for one in trained for step in one.steps),
            )

    @property
    def weights(self) -> list[Tensor]:
        """For each learner [n] in [0, 1], how much each pair of the pool is believed."""
        return self._weights

    def state_dict(self) -> dict[str, Any]:
        """Returns all that the epochs to come depend on; take it between two of them."""
        return {
            "epoch": self.epoch,
            "learners": [learner.state_dict() for learner in self.learners],
            "weights": self._weights,
            "generator": self._generator.get_state(),
            "random": random_state(self._pool.image_rows.device),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave; sets torch's generators too."""
        self.epoch = state["epoch"]
        for learner, one in zip(self.learners, state["learners"], strict=True):
            learner.load_state_dict(one)
        self._weights = list(state["weights"])
        self._generator.set_state(state["generator"])
        set_random_state(state["random"], self._pool.image_rows.device)

    def _train(
        self, index: int, epoch: int, warm_up: bool, on_step: Callable[[], None]
    ) -> _Trained:
        learner, schedule = self.learners[index], self._schedule
        device = learner.device
        trusted = cycle_batches(
            len(self._meta.matched),
            batch_size=schedule.trusted_batch_size,
            generator=self._generator,
        )
        order = torch.randperm(len(self._learned), generator=self._generator)
        batches = order.tensor_split(self.steps_per_epoch())
        believed = torch.ones(len(self._learned))
        believed[: len(self._pool)] = self._weights[index]
        losses = torch.zeros(self.steps_per_epoch(), 2, device=device)
        rates = []
        for place, batch in enumerate(batches):
            matched = self._drawn_meta.matched.take(next(trusted))
            hard = len(matched) // 2 if schedule.hard_mismatched else 0
            rates.append(learner.main_rate)
            losses[place] = torch.stack(
                learner.step(
                    NoisyBatch(
                        self._features,
                        self._learned.take(batch),
                        send(believed[batch], device),
                        warm_up,
                    ),
                    matched=matched,
                    # With the hard ones that the trusted loss adds, one for every other matched
                    # pair, there are as many mismatched as matched pairs.
                    mismatched=mismatched_for(
                        self._drawn_meta,
                        self._drawn_pool,
                        count=len(matched) - hard,
                        generator=self._generator,
                    ),
                    hard_mismatched=schedule.hard_mismatched,
                    gradient=schedule.gradient,
                )
            )
            on_step()
        (losses,) = self._world.total([losses])
        values = losses.tolist()  # the one wait for the device in an epoch
        main, meta = losses.mean(dim=0).tolist()
        if not (math.isfinite(main) and math.isfinite(meta)):
            raise diverged(f"in epoch {epoch} the losses are {main} (main) and {meta} (meta)")
        first = learner.steps - len(rates) + 1
        steps = [
            StepReport(epoch, index, step, of_main, of_meta, rate)
            for step, ((of_main, of_meta), rate) in enumerate(
                zip(values, rates, strict=True), start=first
            )
            if step % schedule.log_every == 0
        ]
        return _Trained(main, meta, steps)

    def _reconstruction_losses(self) -> dict[str, float]:
        taken = [
            learner.reconstruction.take_losses()
            for learner in self.learners
            if learner.reconstruction is not None
        ]
        return {name: float(np.mean([one[name] for one in taken])) for name in (taken or [{}])[0]}

    def _decide_for_other(self, index: int) -> None:
        if self._purify is not None:
            # Every process has all scores: the belief is a posterior with a prior of its own for
            # each pair, which no histogram holds. `max_pairs` bounds what that takes.
            believed = torch.from_numpy(self._purify(self._scores(self.learners[index])))
            self._weights[index - 1] = self._world.same(believed)

    def _scores(self, learner: Learner) -> RoundScores:
        images = learner.embed_images(self._features)
        texts = learner.embed_texts(self._features)
        exchanged = exchange_captions(self._meta.matched, generator=self._generator)
        mismatched = Pairs(
            torch.cat([exchanged.image_rows, self._meta.mismatched.image_rows]),
            torch.cat([exchanged.text_rows, self._meta.mismatched.text_rows]),
        )
        scores = RoundScores(
            self._picked(images, texts),
            *(
                learner.logits(images, texts, pairs).sigmoid().float().cpu().numpy()
                for pairs in (self._pool, self._meta.matched, mismatched)
            ),
        )
        if not all(np.isfinite(values).all() for values in scores):
            raise diverged("the networks give scores that are not finite")
        return scores

    def _picked(self, images: Tensor, texts: Tensor) -> Scores:
        pairs = self._pool
        drawn = torch.randperm(len(pairs), generator=self._generator)[:REFERENCES]
        others = pairs.take(drawn.to(pairs.image_rows.device))
        contrast = Contrast(images[others.image_rows], texts[others.text_rows], others.image_rows)
        # The odds are against the mean of the others: a batch has many.
        against = math.log(self._schedule.batch_size - 1)

        def chosen(block: Pairs) -> Tensor:
            rows = block.image_rows
            odds = contrast.of(images[rows], texts[block.text_rows], rows)
            return F.logsigmoid(odds - against).mean(dim=1)

        picked = scan_pairs(chosen, pairs, world=self._world).exp()
        scores: Scores = picked.float().cpu().numpy()
        return scores

    def _selection(self) -> float:
        features = Features(*self._features.of(self._held_out))
        cosines: Tensor | float = 0.0
        for learner in self.learners:
            images, texts = learner.embed_images(features), learner.embed_texts(features)
            cosines = cosines + images @ texts.T  # [h, h]
        assert isinstance(cosines, Tensor)
        return auroc_of_diagonal(cosines.cpu(), self._held_out)


def diverged(how: str) -> TrainingError:
    """Returns the error of a training that has gone astray."""
    return TrainingError(
        f"Training diverged: {how}.", "Lower train.learning_rate and train.meta_learning_rate."
    )


class _Trained(NamedTuple):
    """What one learner did in one epoch: mean losses, and some of the steps."""

    main_loss: float
    meta_loss: float
    steps: list[StepReport]


def auroc_of_diagonal(cosines: Float[Tensor, "h h"], pairs: Pairs) -> float:
    """Returns the AUROC, in [0, 1], of matched pairs against all other pairings of their halves."""
    image_rows, text_rows = pairs.image_rows.cpu(), pairs.text_rows.cpu()
    same = image_rows[:, None] == image_rows[None, :]
    same = same | (text_rows[:, None] == text_rows[None, :])
    wrong = cosines[~same].sort().values
    if not len(wrong):
        return 0.5
    below = torch.searchsorted(wrong, cosines.diagonal().contiguous())
    return float(below.double().mean() / len(wrong))
