"""Two networks trained side by side, each on what the other believes to be matched.

MSCN section 3.3 and Algorithm 1; co-teaching as in NCR (Huang et al., NeurIPS 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from nccleaner.train.learner import Learner
from nccleaner.train.meta_gradient import MetaGradient
from nccleaner.train.objective import NoisyBatch, mismatched_for
from nccleaner.train.pairs import (
    Features,
    Pairs,
    TrustedPairs,
    cycle_batches,
    exchange_captions,
    iter_batches,
)

Scores = npt.NDArray[np.float32]


class RoundScores(NamedTuple):
    """What a round of purification sees of one network; corrected similarities in (0, 1).

    Attributes:
        pool: [n], every pair of the pool.
        matched: Trusted matched pairs of the meta part.
        mismatched: Mismatched ones, made by exchanging captions or labelled by a person.
    """

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
        gradient: How the meta gradient is taken.
    """

    epochs: int
    warm_up_epochs: int
    batch_size: int
    trusted_batch_size: int
    gradient: MetaGradient


@dataclass(frozen=True, slots=True)
class EpochReport:
    """What an epoch did.

    Attributes:
        epoch: Counted from 1.
        main_loss: Mean of both networks.
        meta_loss: Mean of both networks.
        believed: Mean weight of the pairs of the pool in the next epoch.
        selection: AUROC of held-out matched pairs against all other pairings of their images and
            captions, in [0, 1]; the higher the better the snapshot.
    """

    epoch: int
    main_loss: float
    meta_loss: float
    believed: float
    selection: float


class CoTraining:
    """Trains two learners on one pool; iterate `epochs`, keep the snapshot you like best.

    Args:
        learners: Two of them, started from different seeds.
        features: The table that all pairs point into.
        pool: The noisy pairs, the planted probes among them.
        meta: The trusted pairs that guide training.
        held_out: Trusted matched pairs that choose the snapshot.
        purify: Decides after each epoch how much each pair is believed.
        first_weights: [n] in [0, 1], how much each pair is believed during warm-up; None: fully.
        schedule: How long and in which portions.
        seed: Same inputs, seed, device and state of torch's generator (dropout draws from it) give
            the same networks.
    """

    def __init__(
        self,
        *,
        learners: Sequence[Learner],
        features: Features,
        pool: Pairs,
        meta: TrustedPairs,
        held_out: Pairs,
        purify: Purify,
        first_weights: Scores | None,
        schedule: Schedule,
        seed: int,
    ) -> None:
        self.learners = learners
        self._features = features
        self._pool = pool
        self._meta = meta
        self._held_out = held_out
        self._purify = purify
        self._schedule = schedule
        self._generator = torch.Generator().manual_seed(seed)
        weights = np.ones(len(pool), np.float32) if first_weights is None else first_weights
        self._weights = [torch.from_numpy(weights) for _ in learners]

    def steps_per_epoch(self) -> int:
        """Returns the steps of one learner in one epoch."""
        return max(len(self._pool) // self._schedule.batch_size, 1)

    def epochs(self, on_step: Callable[[], None]) -> Iterator[EpochReport]:
        """Trains; yields after every epoch, when the averaged weights may be copied.

        Args:
            on_step: Called after every step of a learner.

        Raises:
            TrainingError: A loss is not finite.
        """
        for epoch in range(1, self._schedule.epochs + 1):
            warm_up = epoch <= self._schedule.warm_up_epochs
            if epoch == self._schedule.warm_up_epochs + 1:
                for learner in self.learners:
                    learner.reset_optimisers()
            losses = []
            for index in range(len(self.learners)):
                losses.append(self._train(index, epoch, warm_up, on_step))
                if not warm_up:
                    self._decide_for_other(index)  # by this one as just updated [P]
            if epoch == self._schedule.warm_up_epochs:
                for index in range(len(self.learners)):
                    self._decide_for_other(index)
            yield EpochReport(
                epoch=epoch,
                main_loss=float(np.mean([main for main, _ in losses])),
                meta_loss=float(np.mean([meta for _, meta in losses])),
                believed=float(torch.stack(self._weights).mean()),
                selection=self._selection(),
            )

    def _train(
        self, index: int, epoch: int, warm_up: bool, on_step: Callable[[], None]
    ) -> tuple[float, float]:
        learner, schedule = self.learners[index], self._schedule
        device = self._features.images.device
        trusted = cycle_batches(
            len(self._meta.matched),
            batch_size=schedule.trusted_batch_size,
            generator=self._generator,
        )
        totals = torch.zeros(2, device=device)
        batches = iter_batches(
            len(self._pool), batch_size=schedule.batch_size, generator=self._generator
        )
        for batch in batches:
            matched = self._meta.matched.take(next(trusted))
            losses = learner.step(
                NoisyBatch(
                    self._features,
                    self._pool.take(batch),
                    self._weights[index][batch].to(device),
                    warm_up,
                ),
                matched=matched,
                # The trusted loss adds one hard mismatched pair for every other matched one, which
                # makes as many mismatched as matched pairs, half of them hard.
                mismatched=mismatched_for(
                    self._meta,
                    self._pool,
                    count=len(matched) - len(matched) // 2,
                    generator=self._generator,
                ),
                gradient=schedule.gradient,
            )
            totals += torch.stack(losses)
            on_step()
        main, meta = (totals / self.steps_per_epoch()).tolist()
        learner.check_finite(main, meta, epoch=epoch)
        return main, meta

    def _decide_for_other(self, index: int) -> None:
        believed = self._purify(self._scores(self.learners[index]))
        self._weights[1 - index] = torch.from_numpy(believed)

    def _scores(self, learner: Learner) -> RoundScores:
        images = learner.embed_images(self._features)
        texts = learner.embed_texts(self._features)
        exchanged = exchange_captions(self._meta.matched, generator=self._generator)
        mismatched = Pairs(
            torch.cat([exchanged.image_rows, self._meta.mismatched.image_rows]),
            torch.cat([exchanged.text_rows, self._meta.mismatched.text_rows]),
        )
        return RoundScores(
            *(
                learner.logits(images, texts, pairs).sigmoid().cpu().numpy()
                for pairs in (self._pool, self._meta.matched, mismatched)
            )
        )

    def _selection(self) -> float:
        rows = self._held_out
        cosines: Tensor | float = 0.0
        for learner in self.learners:
            images = learner.embed_images(
                Features(self._features.images[rows.image_rows], _NOTHING)
            )
            texts = learner.embed_texts(Features(_NOTHING, self._features.texts[rows.text_rows]))
            cosines = cosines + images @ texts.T  # [h, h]
        assert isinstance(cosines, Tensor)
        return _auroc_of_diagonal(cosines.cpu(), rows)


_NOTHING = torch.empty(0)


def _auroc_of_diagonal(cosines: Float[Tensor, "h h"], pairs: Pairs) -> float:
    image_rows, text_rows = pairs.image_rows.cpu(), pairs.text_rows.cpu()
    same = image_rows[:, None] == image_rows[None, :]
    same = same | (text_rows[:, None] == text_rows[None, :])
    wrong = cosines[~same].sort().values
    if not len(wrong):
        return 0.5
    below = torch.searchsorted(wrong, cosines.diagonal().contiguous())
    return float(below.double().mean() / len(wrong))
