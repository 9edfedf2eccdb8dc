"""Dual encoders on frozen features, trained as nccleaner's networks are but by plain losses.

Towers, dropout, batches, epochs, learning rate and averaging of weights are those of nccleaner's
configuration; only what is minimised differs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.pool import Pool
from nccleaner.config import RunConfig
from nccleaner.model.losses import hinge_loss, info_nce_loss, no_negatives
from nccleaner.model.mfsr import Separation
from nccleaner.model.products import float32_products
from nccleaner.model.towers import FeatureTower
from nccleaner.train.pairs import Features, Pairs, iter_batches

_CLIP_NORM = 2.0


class Semantic(nn.Module):
    """The layers that make mFSR's semantic part; the other parts are left out.

    Shapes: [b, d] → [b, d], rows of length 1.
    """

    def __init__(self, *, joint_width: int) -> None:
        super().__init__()
        self.separation = Separation(joint_width=joint_width)

    def forward(self, joint: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Maps vectors of the joint space."""
        semantic: Tensor = self.separation(joint).semantic
        return semantic


class DualEncoder(nn.Module):
    """An image and a caption tower; the cosine of what leaves them is the similarity.

    Args:
        widths: Of an image's and of a caption's feature.
        head: `Semantic`, or `Identity` for what VSE++ has: nothing after the tower.
        joint_width: Width d of the joint space.
        dropout: Of the features, while training.
        temperature: Start of the learned temperature.
    """

    def __init__(
        self,
        *,
        widths: tuple[int, int],
        head: type[nn.Module],
        joint_width: int,
        dropout: float,
        temperature: float,
    ) -> None:
        super().__init__()
        self.towers = nn.ModuleList(
            nn.Sequential(
                FeatureTower(feature_width=width, joint_width=joint_width, dropout=dropout),
                head(joint_width=joint_width),
            )
            for width in widths
        )
        self.log_inverse_temperature = nn.Parameter(torch.tensor(1 / temperature).log())

    def forward(
        self, images: Float[Tensor, "i f"], texts: Float[Tensor, "t l"]
    ) -> tuple[Float[Tensor, "i d"], Float[Tensor, "t d"]]:
        """Embeds images and captions as vectors of length 1."""
        image_tower, text_tower = self.towers
        return F.normalize(image_tower(images), dim=1), F.normalize(text_tower(texts), dim=1)


@dataclass(frozen=True, slots=True)
class Batch:
    """What a loss sees of a batch.

    Attributes:
        cosines: Of image i with caption j.
        inverse_temperature: Learned scale of the cosines.
        excluded: Pairs (i, j) that show the same image or share the caption: no negatives.
        weights: In [0, 1], how much pair i counts.
        warm_up: Whether training still warms up.
    """

    cosines: Float[Tensor, "b b"]
    inverse_temperature: Float[Tensor, ""]
    excluded: Bool[Tensor, "b b"]
    weights: Float[Tensor, " b"]
    warm_up: bool


def info_nce(batch: Batch) -> Float[Tensor, ""]:
    """Symmetric InfoNCE with a learned temperature."""
    return info_nce_loss(
        batch.cosines,
        inverse_temperature=batch.inverse_temperature,
        weights=batch.weights,
        excluded=batch.excluded,
    )


def hardest_negative(batch: Batch) -> Float[Tensor, ""]:
    """VSE++ (Faghri et al. 2018), margin 0.2; during warm-up the mean over negatives."""
    return hinge_loss(
        batch.cosines,
        margins=torch.full_like(batch.weights, 0.2),
        weights=batch.weights,
        excluded=batch.excluded,
        hardest=not batch.warm_up,
    )


class Training:
    """Trains one dual encoder, epoch by epoch.

    Args:
        pool: What it is trained on.
        config: The settings that nccleaner itself is fitted with.
        loss: What is minimised.
        head: The last layers of both towers.
        seed: Of weights and batches; dropout draws from torch's own generator.
    """

    def __init__(
        self,
        pool: Pool,
        config: RunConfig,
        *,
        loss: Callable[[Batch], Tensor],
        head: type[nn.Module],
        seed: int,
    ) -> None:
        self._pool, self._train, self._loss = pool, config.train, loss
        self._generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            net = DualEncoder(
                widths=(pool.features.images.shape[1], pool.features.texts.shape[1]),
                head=head,
                joint_width=config.model.joint_width,
                dropout=config.model.dropout_for(len(pool.pairs)),
                temperature=config.model.temperature,
            )
        self.net = net.to(pool.features.images.device)
        self.average = copy.deepcopy(self.net).requires_grad_(False).eval()
        self._optimiser = torch.optim.AdamW(
            self.net.parameters(),
            lr=self._train.learning_rate,
            weight_decay=self._train.weight_decay,
            fused=True,
        )
        steps, self.epochs, self.warm_up_epochs = self._train.length(len(pool.pairs))
        self._total_steps, self._steps, self.epoch = steps * self.epochs, 0, 0

    def run_epoch(self, weights: Float[Tensor, " n"]) -> None:
        """Passes over the pool once; `weights` in [0, 1] say how much each pair counts."""
        self.net.train()
        for chosen in self.batches():
            batch = self._look(self.net, self._pool.pairs.take(chosen), weights[chosen])
            self._optimiser.zero_grad()
            self._loss(batch).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.net.parameters(), _CLIP_NORM)
            for group in self._optimiser.param_groups:
                group["lr"] = self._rate()
            self._optimiser.step()
            self._steps += 1
            self._update_average()
        self.epoch += 1

    def batches(self) -> Iterator[Tensor]:
        """Yields shuffled batches of indices into the pool."""
        batches = iter_batches(
            len(self._pool.pairs), batch_size=self._train.batch_size, generator=self._generator
        )
        return (batch.to(self._pool.features.images.device) for batch in batches)

    @torch.no_grad()
    def look(self, pairs: Pairs) -> Batch:
        """Returns what a loss sees of pairs by the averaged weights, each fully counted."""
        return self._look(self.average, pairs, torch.ones_like(pairs.image_rows, dtype=torch.float))

    @torch.no_grad()
    def embed(self, features: Features) -> tuple[Float[Tensor, "i d"], Float[Tensor, "t d"]]:
        """Embeds images and captions by the averaged weights."""
        images, texts = self.average(*features)
        return images, texts

    def _look(self, net: DualEncoder, pairs: Pairs, weights: Tensor) -> Batch:
        features = self._pool.features
        images, texts = net(features.images[pairs.image_rows], features.texts[pairs.text_rows])
        return Batch(
            images @ texts.T,
            net.log_inverse_temperature.exp(),
            no_negatives(pairs.image_rows) | no_negatives(pairs.text_rows),
            weights,
            self.epoch < self.warm_up_epochs,
        )

    def _rate(self) -> float:
        rising = min(1.0, (self._steps + 1) / max(self._train.warm_up_steps, 1))
        falling = 0.5 * (1 + math.cos(math.pi * self._steps / self._total_steps))
        return self._train.learning_rate * rising * max(falling, 0.01)

    @torch.no_grad()
    def _update_average(self) -> None:
        # A young average forgets its random start fast.
        decay = min(self._train.averaging, self._steps / (self._steps + 10))
        for old, new in zip(self.average.parameters(), self.net.parameters(), strict=True):
            old.lerp_(new, 1 - decay)


@contextmanager
def training_numbers(seed: int) -> Iterator[None]:
    """Seeds dropout, and rounds factors of products as nccleaner's training does."""
    with float32_products(rounded=True), torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
