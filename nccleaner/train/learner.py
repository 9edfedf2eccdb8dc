"""One of the two networks with what trains it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

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
from nccleaner.train.pairs import Features, Pairs, send
from nccleaner.train.rates import Rates
from nccleaner.train.reconstruction import Reconstruction
from nccleaner.train.world import ALONE, World

CLIP_NORM = 2.0  # [P]
SCAN_ROWS = 8192


Precision = Literal["float32", "bf16"]


class Learner:
    """A main and a meta network, their optimisers, and the average that scores.

    Args:
        main_net: The retrieval network.
        meta_net: The MSCN.
        loss_weights: Weights of the main loss.
        rates: Learning rates, step by step.
        weight_decay: Of the main network (AdamW).
        averaging: Decay of the moving average of the weights that is used for scoring [O]; 0 scores
            with the last weights.
        precision: `bf16` computes the losses under autocast; weights, gradients, optimisers and
            scoring are float32 either way, and finite differences too.
        reconstruction: Adds its losses to the main loss; None switches it off. Not for several
            processes.
        world: The processes that divide each batch and each scan. All have a learner with the same
            weights, and all call it alike.
    """

    def __init__(
        self,
        *,
        main_net: MainNet,
        meta_net: MetaNet,
        loss_weights: LossWeights,
        rates: Rates,
        weight_decay: float,
        averaging: float,
        precision: Precision,
        reconstruction: Reconstruction | None = None,
        world: World = ALONE,
    ) -> None:
        self.main_net = main_net
        self.meta_net = meta_net
        self.average_net = copy.deepcopy(main_net).requires_grad_(False)
        self.reconstruction = reconstruction
        self._loss_weights = loss_weights
        self._rates = rates
        self._weight_decay = weight_decay
        self._averaging = averaging
        self._precision = precision
        self._world = world
        self.steps = 0
        self.reset_optimisers()

    def reset_optimisers(self) -> None:
        """Makes both optimisers anew, as after the warm-up [P]."""
        # The fused kernel is ten times the plain one on CPU, where it would take half the step.
        self._main_optimiser = torch.optim.AdamW(
            self.main_net.parameters(),
            lr=self._rates.main,
            weight_decay=self._weight_decay,
            fused=True,
        )
        self._meta_optimiser = torch.optim.Adam(
            self.meta_net.parameters(), lr=self._rates.meta, fused=True
        )

    def step(
        self,
        batch: NoisyBatch,
        *,
        matched: Pairs,
        mismatched: Pairs,
        hard_mismatched: bool,
        gradient: MetaGradient,
    ) -> tuple[Tensor, Tensor]:
        """Does one iteration of MSCN: virtual step, meta step, step of the main network.

        In warm-up W and θ move together, each by its own loss [P].

        Nothing in it waits for the device, whose queue stays full.

        Args:
            batch: Pairs of the pool.
            matched: Trusted matched pairs.
            mismatched: Pairs known or made to be mismatched.
            hard_mismatched: Whether `matched` gives hard mismatched pairs too.
            gradient: How the meta gradient is taken.

        Returns:
            Main and meta loss before the step, still on the device; of several processes each has
            its part of either.
        """
        self.main_net.train()
        rate = self.main_rate

        def noisy(main_net: MainNet) -> Tensor:
            with self._autocast(gradient):
                return main_loss(
                    main_net,
                    self.meta_net,
                    batch,
                    loss_weights=self._loss_weights,
                    world=self._world,
                )

        meta_value = torch.zeros(())

        def trusted(main_net: MainNet) -> Tensor:
            nonlocal meta_value
            with self._autocast(gradient):
                loss = trusted_loss(
                    main_net,
                    self.meta_net,
                    features=batch.features,
                    matched=matched,
                    mismatched=mismatched,
                    hard_mismatched=hard_mismatched,
                    world=self._world,
                )
            meta_value = loss.detach()
            return loss

        theta = list(self.meta_net.parameters())
        gradients = meta_gradient(
            "direct" if batch.warm_up and gradient != "none" else gradient,
            main_net=self.main_net,
            meta_parameters=theta,
            noisy_loss=noisy,
            trusted_loss=trusted,
            virtual_step_size=rate,
            world=self._world,
        )
        for parameter, value in zip(theta, gradients, strict=True):
            parameter.grad = value
        _set_rate(self._meta_optimiser, self._rates.meta_at(self.steps, warm_up=batch.warm_up))
        self._meta_optimiser.step()

        with self._autocast():
            loss = main_loss(
                self.main_net,
                self.meta_net,
                batch,
                loss_weights=self._loss_weights,
                reconstruction=None if self.reconstruction is None else self.reconstruction.loss,
                world=self._world,
            )
        self._main_optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._add_up_gradients()
        torch.nn.utils.clip_grad_norm_(self.main_net.parameters(), CLIP_NORM)
        _set_rate(self._main_optimiser, rate)
        self._main_optimiser.step()
        if self.reconstruction is not None:
            self.reconstruction.step()
        self.main_net.clamp_temperature()
        self.steps += 1
        self._update_average()
        return loss.detach(), meta_value

    @property
    def main_rate(self) -> float:
        """The main network's rate in the next step."""
        return self._rates.main_at(self.steps)

    def state_dict(self) -> dict[str, Any]:
        """Returns all that the next step depends on, as nested dictionaries of plain data."""
        parts: dict[str, Any] = {name: part.state_dict() for name, part in self._stateful()}
        return {"steps": self.steps, **parts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.steps = state["steps"]
        for name, part in self._stateful():
            part.load_state_dict(state[name])

    @torch.no_grad()
    def embed_images(self, features: Features) -> Float[Tensor, "n d"]:
        """Returns the semantic parts of all images, by the averaged weights."""
        net = self.average_net.eval()
        return self._scan(net.semantic_images, features.images)

    @torch.no_grad()
    def embed_texts(self, features: Features) -> Float[Tensor, "n d"]:
        """Returns the semantic parts of all captions, by the averaged weights."""
        net = self.average_net.eval()
        return self._scan(net.semantic_texts, features.texts)

    @torch.no_grad()
    def logits(
        self, images: Float[Tensor, "i d"], texts: Float[Tensor, "t d"], pairs: Pairs
    ) -> Float[Tensor, " n"]:
        """Returns the logits of the corrected similarities of pairs of embedded rows."""
        net = self.average_net.eval()
        return scan_pairs(
            lambda block: pair_logits(
                net, self.meta_net, images[block.image_rows], texts[block.text_rows]
            ),
            pairs,
            world=self._world,
        )

    def _stateful(self) -> list[tuple[str, Any]]:
        named = [
            ("main_net", self.main_net),
            ("meta_net", self.meta_net),
            ("average_net", self.average_net),
            ("main_optimiser", self._main_optimiser),
            ("meta_optimiser", self._meta_optimiser),
            ("reconstruction", self.reconstruction),
        ]
        return [(name, part) for name, part in named if part is not None]

    def _autocast(self, gradient: MetaGradient = "direct") -> AbstractContextManager[object]:
        # What is perturbed for a finite difference is below bfloat16's rounding.
        enabled = self._precision == "bf16" and gradient != "finite_difference"
        return torch.autocast(self.device.type, torch.bfloat16) if enabled else nullcontext()

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.main_net.log_inverse_temperature.device

    def _scan(self, embed: Callable[[Tensor], Tensor], table: Tensor) -> Tensor:
        """Embeds all rows of a table, wherever it is, in portions on the device of the networks."""
        rows = self._world.rows(len(table))
        blocks = torch.split(table[rows.own], SCAN_ROWS)
        return rows.gather(torch.cat([embed(send(block, self.device)) for block in blocks]))

    def _add_up_gradients(self) -> None:
        reached = [one for one in self.main_net.parameters() if one.grad is not None]
        parts = [one.grad for one in reached if one.grad is not None]
        for parameter, total in zip(reached, self._world.total(parts), strict=True):
            parameter.grad = total

    @torch.no_grad()
    def _update_average(self) -> None:
        # A young average forgets its random start fast.
        decay = min(self._averaging, self.steps / (self.steps + 10))
        for old, new in zip(self.average_net.parameters(), self.main_net.parameters(), strict=True):
            old.lerp_(new, 1 - decay)


def scan_pairs(
    score: Callable[[Pairs], Tensor], pairs: Pairs, *, world: World
) -> Float[Tensor, " n"]:
    """Returns the score of each pair, computed in portions, and by all processes together."""
    rows = world.rows(len(pairs))
    own = pairs.take(rows.own)
    blocks = zip(
        torch.split(own.image_rows, SCAN_ROWS), torch.split(own.text_rows, SCAN_ROWS), strict=True
    )
    return rows.gather(torch.cat([score(Pairs(*block)) for block in blocks]))


def _set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate
