"""Fine-tuning of the image backbone: the last phase of mFSR, from pixels.

Each network trains a copy of the backbone together with itself, by its main loss. What it believes
of the pool and its meta network stay as the phases before left them [O].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from nccleaner.errors import TrainingError
from nccleaner.model.mfsr import MainNet
from nccleaner.model.mscn import MetaNet
from nccleaner.train.cotrain import auroc_of_diagonal
from nccleaner.train.learner import CLIP_NORM, Precision
from nccleaner.train.objective import LossWeights, NoisyBatch, main_loss
from nccleaner.train.pairs import Features, Pairs, iter_batches, rows_of, send

_SCAN_IMAGES = 64


class Tuned(NamedTuple):
    """A network with its own backbone.

    Attributes:
        backbone: RGB pixels [b, h, w, 3], uint8 → [b, f].
        main_net: Reads [b, f].
        meta_net: Is not trained any more.
    """

    backbone: nn.Module
    main_net: MainNet
    meta_net: MetaNet


@dataclass(frozen=True, slots=True)
class TuningReport:
    """What an epoch of fine-tuning did.

    Attributes:
        epoch: Counted from 1.
        main_loss: Mean of the networks.
        selection: As in `EpochReport`.
    """

    epoch: int
    main_loss: float
    selection: float


class FineTuning:
    """Trains backbones; iterate `epochs`, keep the snapshot you like best.

    Args:
        networks: As the phases before left them; trained in place.
        pixels: Every image once, wherever it is; a memory-mapped file will do.
        texts: What is stored of captions.
        pool: The noisy pairs.
        weights: For each network [n] in [0, 1], how much each pair is believed.
        held_out: Trusted matched pairs that choose the snapshot.
        loss_weights: Weights of the main loss.
        epochs: Passes over the pool (15 [P]).
        batch_size: Pairs in a step.
        learning_rate: Of backbones and networks (2e-5 [P]).
        precision: As in `Learner`.
        seed: Of the order of the pool.
    """

    def __init__(
        self,
        *,
        networks: Sequence[Tuned],
        pixels: UInt8[Tensor, "images h w 3"],
        texts: Tensor,
        pool: Pairs,
        weights: Sequence[Float[Tensor, " n"]],
        held_out: Pairs,
        loss_weights: LossWeights,
        epochs: int,
        batch_size: int,
        learning_rate: float,
        precision: Precision,
        seed: int,
    ) -> None:
        self.networks = networks
        self._pixels = pixels
        self._texts = texts
        self._pool = pool.to("cpu")  # where batches are drawn, and images lie
        self._weights = weights
        self._held_out = held_out
        self._loss_weights = loss_weights
        self._epochs = epochs
        self._batch_size = batch_size
        self._precision = precision
        self._generator = torch.Generator().manual_seed(seed)
        self._device = pool.image_rows.device
        self._optimisers = [_optimiser(network, learning_rate) for network in networks]

    def epochs(self, on_step: Callable[[], None]) -> Iterator[TuningReport]:
        """Trains; yields after every epoch, when weights may be copied.

        Args:
            on_step: Called after every step of a network.

        Raises:
            TrainingError: A loss is not finite.
        """
        for epoch in range(1, self._epochs + 1):
            losses = []
            for index in range(len(self.networks)):
                for batch in iter_batches(
                    len(self._pool), batch_size=self._batch_size, generator=self._generator
                ):
                    losses.append(self._step(index, batch))
                    on_step()
            loss = float(torch.stack(losses).mean())
            if not torch.tensor(loss).isfinite():
                raise TrainingError(
                    f"Fine-tuning diverged in epoch {epoch}: main loss {loss}.",
                    "Lower train.fine_tune_learning_rate.",
                )
            yield TuningReport(epoch, loss, self.selection())

    @torch.no_grad()
    def selection(self) -> float:
        """Returns the AUROC of held-out pairs against all other pairings, as in `CoTraining`."""
        cosines: Tensor | float = 0.0
        for backbone, main_net, _ in self.networks:
            main_net.eval()
            images = torch.cat(
                [
                    main_net.separate_images(backbone(self._pixels_of(rows)).float()).semantic
                    for rows in torch.split(self._held_out.image_rows, _SCAN_IMAGES)
                ]
            )
            texts = main_net.separate_texts(self._texts_of(self._held_out.text_rows)).semantic
            cosines = cosines + images @ texts.T  # [h, h]
        assert isinstance(cosines, Tensor)
        return auroc_of_diagonal(cosines.cpu(), self._held_out)

    def _step(self, index: int, batch: Tensor) -> Tensor:
        backbone, main_net, meta_net = self.networks[index]
        main_net.train()
        # Batch norms, where they are not folded, keep their statistics: batches are small [O].
        backbone.eval()
        pairs = self._pool.take(batch)
        image_rows, image_of = _distinct(pairs.image_rows)
        text_rows, text_of = _distinct(pairs.text_rows)
        enabled = self._precision == "bf16"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=enabled):
            features = Features(
                backbone(self._pixels_of(image_rows)).float(), self._texts_of(text_rows)
            )
            loss = main_loss(
                main_net,
                meta_net,
                NoisyBatch(
                    features,
                    Pairs(image_of, text_of),
                    send(self._weights[index][batch], self._device),
                    warm_up=False,
                ),
                loss_weights=self._loss_weights,
            )
        optimiser = self._optimisers[index]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        trained = [*backbone.parameters(), *main_net.parameters()]
        nn.utils.clip_grad_norm_(trained, CLIP_NORM)
        optimiser.step()
        main_net.clamp_temperature()
        return loss.detach()

    def _pixels_of(self, rows: Tensor) -> Tensor:
        return rows_of(self._pixels, rows, self._device)

    def _texts_of(self, rows: Tensor) -> Tensor:
        return rows_of(self._texts, rows, self._device)


def _distinct(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Returns each row once, and where in that each is; equal rows stay equal."""
    distinct, place = torch.unique(rows, return_inverse=True)
    return distinct, place


def _optimiser(network: Tuned, learning_rate: float) -> torch.optim.Optimizer:
    backbone, main_net, meta_net = network
    meta_net.requires_grad_(False)
    parameters = [*backbone.parameters(), *main_net.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    return torch.optim.Adam(parameters, lr=learning_rate, fused=True)
