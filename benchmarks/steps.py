"""A training step with each way to the meta gradient, and beside one built without any care."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from rounds import Row, run_rounds
from torch import Tensor
from torch.nn import functional as F

from nccleaner.config import RunConfig, overlay
from nccleaner.model.products import float32_products
from nccleaner.model.similarity import SimilarityVector
from nccleaner.pipeline.training import (
    build_architecture,
    learning_rates,
    loss_weights,
    training_precision,
)
from nccleaner.train.learner import Learner
from nccleaner.train.meta_gradient import MetaGradient
from nccleaner.train.networks import build_networks
from nccleaner.train.objective import NoisyBatch
from nccleaner.train.pairs import Features, Pairs

GRADIENTS: tuple[MetaGradient, ...] = ("none", "direct", "finite_difference", "exact")

# Widths of the embedded encoders' features.
_IMAGE_WIDTH, _TEXT_WIDTH = 1280, 384
_POOL, _TRUSTED = 8_192, 512
_STEPS = 10


class NaiveVectors(SimilarityVector):
    """Similarity vectors as their equation has them: h = L2norm(W (v − l)²), pair by pair."""

    def pairwise(
        self, images: Float[Tensor, "b d"], texts: Float[Tensor, "c d"]
    ) -> Float[Tensor, "b c s"]:
        """Returns h of every image with every caption; [b, c, d] is built on the way."""
        differences = (images[:, None, :] - texts[None, :, :]).square()  # [b, c, d]
        return F.normalize(differences @ self.weight.T, dim=-1)


@dataclass(frozen=True)
class Steps:
    """Steps on made-up features.

    Attributes:
        config: Of training and networks.
        device: Where they are.
    """

    config: RunConfig
    device: str

    def rows(self, *, rounds: int) -> list[Row]:
        """Measures each gradient, and with the hinge loss both ways to its B x B vectors."""
        with_hinge = RunConfig.model_validate(
            overlay(self.config.model_dump(), {"train": {"hinge": 1.0}})
        )
        default = self.config.train.meta_gradient
        parts: dict[str, Callable[[], Tensor]] = {
            kind: self.runner(self.config, kind) for kind in GRADIENTS
        }
        parts |= {
            "hinge": self.runner(with_hinge, default),
            "naive": self.runner(with_hinge, default, naive=True),
        }
        with float32_products(rounded=True):
            seconds = run_rounds(parts, rounds=rounds)
        rows = [
            Row(
                f"training step, meta gradient {kind}",
                "one without meta gradient",
                "steps",
                _STEPS,
                seconds[kind],
                seconds["none"],
            )
            for kind in GRADIENTS[1:]
        ]
        hinge = f"training step, {default}, with the hinge loss"
        naive = "with all B x B vectors built naively"
        return [*rows, Row(hinge, naive, "steps", _STEPS, seconds["hinge"], seconds["naive"])]

    def runner(
        self, config: RunConfig, gradient: MetaGradient, *, naive: bool = False
    ) -> Callable[[], Tensor]:
        """Returns what does a few steps, and waits for the last; all runners draw the same.

        Args:
            config: Of training and networks.
            gradient: Way to the meta gradient.
            naive: Whether similarity vectors are built naively.

        Returns:
            A function that gives the losses of its steps, [steps, 2].
        """
        learner = self._learner(config, naive=naive)
        features, pool, matched, mismatched = self._data()
        draw = torch.Generator().manual_seed(1)
        weights = torch.ones(config.train.batch_size, device=self.device)

        def drawn(pairs: Pairs, size: int) -> Pairs:
            return pairs.take(torch.randint(len(pairs), (size,), generator=draw))

        def run() -> Tensor:
            losses: list[Tensor] = []
            for _ in range(_STEPS):
                pairs = drawn(pool, config.train.batch_size)
                losses += learner.step(
                    NoisyBatch(features, pairs, weights, warm_up=False),
                    matched=drawn(matched, config.train.trusted_batch_size),
                    mismatched=drawn(mismatched, config.train.trusted_batch_size // 2),
                    hard_mismatched=config.train.hard_mismatched,
                    gradient=gradient,
                )
            return torch.stack([loss.cpu() for loss in losses]).view(_STEPS, 2)

        return run

    def _learner(self, config: RunConfig, *, naive: bool) -> Learner:
        model, train = config.model, config.train
        empty = Features(torch.empty(0, _IMAGE_WIDTH), torch.empty(0, _TEXT_WIDTH))
        architecture = build_architecture(empty, config, pool=_POOL)
        main_net, meta_net = build_networks(architecture, seed=0)
        if naive:
            vectors = NaiveVectors(
                joint_width=model.joint_width, similarity_width=model.similarity_width
            )
            vectors.load_state_dict(main_net.similarity_vector.state_dict())
            main_net.similarity_vector = vectors
        return Learner(
            main_net=main_net.to(self.device),
            meta_net=meta_net.to(self.device),
            loss_weights=loss_weights(config),
            rates=learning_rates(config, total_steps=10_000),
            weight_decay=train.weight_decay,
            averaging=train.averaging,
            precision=training_precision(config, torch.device(self.device)),
        )

    def _data(self) -> tuple[Features, Pairs, Pairs, Pairs]:
        """Features, the pool, and trusted pairs, matched and not."""
        draw = torch.Generator().manual_seed(0)
        features = Features(
            torch.randn(_POOL, _IMAGE_WIDTH, generator=draw).to(self.device),
            torch.randn(_POOL, _TEXT_WIDTH, generator=draw).to(self.device),
        )
        rows = torch.arange(_POOL)
        trusted = rows[:_TRUSTED]
        return (
            features,
            Pairs(rows, rows),
            Pairs(trusted, trusted),
            Pairs(trusted, trusted.roll(1)),
        )
