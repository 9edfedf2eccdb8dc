"""One of the two networks with what trains it."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nccleaner.errors import TrainingError
from nccleaner.model.mfsr import MainNet
from nccleaner.model.mscn import MetaNet
from nccleaner.train.meta_gradient import MetaGradient, meta_gradient
from nccleaner.train.objective import (
    LossWeights,
    NoisyBatch,
    main_loss,
    pair_logits,
    trusted_loss,
)
from nccleaner.train.pairs import Features, Pairs

_CLIP_NORM = 2.0  # [P]
_SCAN_ROWS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSizes:
    """Learning rates and what goes with them.

    Attributes:
        main: Peak learning rate of the main network.
        meta: Learning rate of the meta network.
        weight_decay: Of the main network (AdamW).
        warm_up_steps: Steps over which the main rate rises from 0.
        averaging: Decay of the moving average of the weights that is used for scoring [O]; 0 scores
            with the last weights.
    """

    main: float
    meta: float
    weight_decay: float
    warm_up_steps: int
    averaging: float


class Learner:
    """A main and a meta network, their optimisers, and the average that scores.

    Args:
        main_net: The retrieval network.
        meta_net: The MSCN.
        loss_weights: Weights of the main loss.
        step_sizes: Learning rates.
        total_steps: Length of the schedule: the main rate falls from its peak along a cosine, the
            meta rate stays [O]; in the paper both fall once, to a tenth.
    """

    def __init__(
        self,
        *,
        main_net: MainNet,
        meta_net: MetaNet,
        loss_weights: LossWeights,
        step_sizes: StepSizes,
        total_steps: int,
    ) -> None:
        self.main_net = main_net
        self.meta_net = meta_net
        self.average_net = copy.deepcopy(main_net).requires_grad_(False)
        self._loss_weights = loss_weights
        self._step_sizes = step_sizes
        self._total_steps = total_steps
        self._steps = 0
        self.reset_optimisers()

    def reset_optimisers(self) -> None:
        """Makes both optimisers anew, as after the warm-up [P]."""
        sizes = self._step_sizes
        # The fused kernel is ten times the plain one on CPU, where it would take half the step.
        self._main_optimiser = torch.optim.AdamW(
            self.main_net.parameters(), lr=sizes.main, weight_decay=sizes.weight_decay, fused=True
        )
        self._meta_optimiser = torch.optim.Adam(
            self.meta_net.parameters(), lr=sizes.meta, fused=True
        )

    def step(
        self,
        batch: NoisyBatch,
        *,
        matched: Pairs,
        mismatched: Pairs,
        gradient: MetaGradient,
    ) -> tuple[Tensor, Tensor]:
        """Does one iteration of MSCN: virtual step, meta step, step of the main network.

        In warm-up W and θ move together, each by its own loss [P].

        Args:
            batch: Pairs of the pool.
            matched: Trusted matched pairs.
            mismatched: Pairs known or made to be mismatched.
            gradient: How the meta gradient is taken.

        Returns:
            Main and meta loss before the step, still on the device.
        """
        self.main_net.train()
        rate = self._rate()

        def noisy(main_net: MainNet) -> Tensor:
            return main_loss(main_net, self.meta_net, batch, loss_weights=self._loss_weights)

        meta_value = torch.zeros(())

        def trusted(main_net: MainNet) -> Tensor:
            nonlocal meta_value
            loss = trusted_loss(
                main_net,
                self.meta_net,
                features=batch.features,
                matched=matched,
                mismatched=mismatched,
            )
            meta_value = loss.detach()
            return loss

        theta = list(self.meta_net.parameters())
        gradients = meta_gradient(
            "direct" if batch.warm_up else gradient,
            main_net=self.main_net,
            meta_parameters=theta,
            noisy_loss=noisy,
            trusted_loss=trusted,
            virtual_step_size=rate,
        )
        for parameter, value in zip(theta, gradients, strict=True):
            parameter.grad = value
        self._meta_optimiser.step()

        loss = noisy(self.main_net)
        self._main_optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.main_net.parameters(), _CLIP_NORM)
        for group in self._main_optimiser.param_groups:
            group["lr"] = rate
        self._main_optimiser.step()
        self.main_net.clamp_temperature()
        self._steps += 1
        self._update_average()
        return loss.detach(), meta_value

    @torch.no_grad()
    def embed_images(self, features: Features) -> Float[Tensor, "n d"]:
        """Returns the semantic parts of all images, by the averaged weights."""
        net = self.average_net.eval()
        return torch.cat(
            [net.separate_images(x).semantic for x in torch.split(features.images, _SCAN_ROWS)]
        )

    @torch.no_grad()
    def embed_texts(self, features: Features) -> Float[Tensor, "n d"]:
        """Returns the semantic parts of all captions, by the averaged weights."""
        net = self.average_net.eval()
        return torch.cat(
            [net.separate_texts(x).semantic for x in torch.split(features.texts, _SCAN_ROWS)]
        )

    @torch.no_grad()
    def logits(
        self, images: Float[Tensor, "i d"], texts: Float[Tensor, "t d"], pairs: Pairs
    ) -> Float[Tensor, " n"]:
        """Returns the logits of the corrected similarities of pairs of embedded rows."""
        net = self.average_net.eval()
        return torch.cat(
            [
                pair_logits(net, self.meta_net, images[rows_i], texts[rows_t])
                for rows_i, rows_t in zip(
                    torch.split(pairs.image_rows, _SCAN_ROWS),
                    torch.split(pairs.text_rows, _SCAN_ROWS),
                    strict=True,
                )
            ]
        )

    def check_finite(self, main_loss: float, meta_loss: float, *, epoch: int) -> None:
        """Raises TrainingError where a loss is not a number any more."""
        if not (math.isfinite(main_loss) and math.isfinite(meta_loss)):
            raise TrainingError(
                f"Training diverged in epoch {epoch}: "
                f"losses {main_loss} (main), {meta_loss} (meta).",
                "Lower train.learning_rate, or look for features that are not finite.",
            )

    def _rate(self) -> float:
        sizes = self._step_sizes
        rising = min(1.0, (self._steps + 1) / max(sizes.warm_up_steps, 1))
        falling = 0.5 * (1 + math.cos(math.pi * min(self._steps / self._total_steps, 1.0)))
        return sizes.main * rising * max(falling, 0.01)

    @torch.no_grad()
    def _update_average(self) -> None:
        # A young average forgets its random start fast.
        decay = min(self._step_sizes.averaging, self._steps / (self._steps + 10))
        for old, new in zip(self.average_net.parameters(), self.main_net.parameters(), strict=True):
            old.lerp_(new, 1 - decay)
