"""Reconstruction while training: images and captions must be there again in their parts.

Each learner has a `Reconstruction` of its own: the networks that rebuild, their optimisers, and the
targets. One step of the main network goes

    loss = ... + reconstruction.loss(image, text, pairs)   # main_loss adds it
    loss.backward()                                        # reaches towers and separation
    reconstruction.step()                                  # its own networks, by the same gradients

It never looks across modalities and weighs all pairs the same: that a caption does not fit its
image does not matter here. It takes no part in the virtual step nor in the meta loss [O]: its terms
do not depend on θ, so that all they could change is where ∇L_meta is taken, by η.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from nccleaner.model.captioning import CaptionDecoder, caption_loss
from nccleaner.model.mfsr import Parts
from nccleaner.model.reconstruction import (
    Discriminator,
    Generator,
    agreement_loss,
    augment,
    generator_loss,
    realness_loss,
)
from nccleaner.train.pairs import Pairs, send

_BETAS = (0.5, 0.999)  # of generator and discriminators [P]


class _Judged(NamedTuple):
    """What the discriminators learn from after the generator."""

    rows: Int[Tensor, " b"]
    true: Float[Tensor, "b 3 64 64"]
    condition: Float[Tensor, "b 3 64 64"]
    generated: Float[Tensor, "b 3 64 64"]


class ImageReconstruction:
    """A generator with its two discriminators.

    Args:
        weight: λ_img.
        targets: [images, 64, 64, 3] uint8; may be memory-mapped, whatever the device.
        joint_width: Width d of the parts.
        width: Channels of the networks; 64 in DCGAN.
        learning_rate: Of Adam, for all three; constant.
        seed: Of their weights; the global random state is as before afterwards.
        device: Where they are.
    """

    def __init__(
        self,
        *,
        weight: float,
        targets: UInt8[Tensor, "images 64 64 3"],
        joint_width: int,
        width: int,
        learning_rate: float,
        seed: int,
        device: str,
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.generator = Generator(joint_width=joint_width, width=width).to(device)
            self.discriminators = nn.ModuleDict(
                {
                    "realness": Discriminator(images=1, width=width),
                    "agreement": Discriminator(images=2, width=width),
                }
            ).to(device)
        self.weight = weight
        self._targets = targets
        self._device = device
        self._optimisers = {
            name: torch.optim.Adam(network.parameters(), lr=learning_rate, betas=_BETAS, fused=True)
            for name, network in self._networks().items()
        }
        self._judged: _Judged | None = None

    def loss(self, parts: Parts, rows: Int[Tensor, " b"]) -> Float[Tensor, ""]:
        """Returns L_G; keeps what `step` needs."""
        true = self.true_images(rows)
        condition = augment(true)
        generated = self.generator(parts).float()  # whatever autocast makes of it
        self._optimisers["generator"].zero_grad()
        self.discriminators.requires_grad_(False)  # they only pass the gradient on
        loss: Tensor = generator_loss(
            self.discriminators["realness"](generated),
            self.discriminators["agreement"](condition, generated),
        )
        self.discriminators.requires_grad_(True)
        self._judged = _Judged(rows, true, condition, generated.detach())
        return loss

    def step(self) -> Float[Tensor, ""]:
        """Steps the generator, then the discriminators; returns L_D1 + L_D2 before."""
        assert self._judged is not None, "loss and its backward come first"
        rows, true, condition, generated = self._judged
        self._judged = None
        self._optimisers["generator"].step()
        realness, agreement = self.discriminators["realness"], self.discriminators["agreement"]
        loss: Tensor = realness_loss(realness(true), realness(generated)) + agreement_loss(
            agreement(condition, true),
            agreement(condition, generated),
            agreement(condition, true.roll(1, dims=0)),
            differs=send(rows != rows.roll(1), self._device),
        )
        self._optimisers["discriminators"].zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimisers["discriminators"].step()
        return loss.detach()

    def true_images(self, rows: Int[Tensor, " b"]) -> Float[Tensor, "b 3 64 64"]:
        """Returns targets as the networks see them, in [-1, 1]."""
        chosen = self._targets[rows.to(self._targets.device)]
        images = send(chosen, self._device)  # [b, 64, 64, 3]
        return images.permute(0, 3, 1, 2).float() / 127.5 - 1

    @torch.no_grad()
    def rebuild(self, parts: Parts) -> UInt8[Tensor, "b 64 64 3"]:
        """Generates images from parts, as pixels."""
        self.generator.eval()
        images: Tensor = self.generator(parts)
        self.generator.train()
        pixels = (images + 1) * 127.5
        return pixels.permute(0, 2, 3, 1).round().clamp(0, 255).to(torch.uint8)

    def state_dict(self) -> dict[str, Any]:
        """Returns networks and optimisers as nested dictionaries of tensors and numbers."""
        return _state_of(self._networks(), self._optimisers)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        _load_state(state, self._networks(), self._optimisers)

    def _networks(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "discriminators": self.discriminators}


class CaptionReconstruction:
    """A caption decoder.

    Args:
        weight: λ_cap.
        tokens: [texts, t] token ids, padded on the right with 0.
        vocabulary: Number of token ids.
        embedding_width: Width of a token's embedding.
        joint_width: Width d of the parts.
        learning_rate: Of Adam; constant.
        seed: Of the weights; the global random state is as before afterwards.
        device: Where it is.
    """

    def __init__(
        self,
        *,
        weight: float,
        tokens: Int[Tensor, "texts t"],
        vocabulary: int,
        embedding_width: int,
        joint_width: int,
        learning_rate: float,
        seed: int,
        device: str,
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.decoder = CaptionDecoder(
                vocabulary=vocabulary, embedding_width=embedding_width, joint_width=joint_width
            ).to(device)
        self.weight = weight
        self._tokens = tokens
        self._device = device
        self._optimiser = torch.optim.Adam(self.decoder.parameters(), lr=learning_rate, fused=True)

    def loss(self, parts: Parts, rows: Int[Tensor, " b"]) -> Float[Tensor, ""]:
        """Returns L_cap."""
        self._optimiser.zero_grad()
        logits, said = self.decoder(parts, self.true_tokens(rows))
        return caption_loss(logits, said)

    def step(self) -> None:
        """Steps the decoder."""
        self._optimiser.step()

    def true_tokens(self, rows: Int[Tensor, " b"]) -> Int[Tensor, "b u"]:
        """Returns captions as token ids, no wider than the longest of them."""
        tokens = self._tokens[rows.to(self._tokens.device)]
        longest = int((tokens != 0).sum(dim=1).max())
        return tokens[:, : max(longest, 1)]

    def rebuild(self, parts: Parts) -> Int[Tensor, "b t"]:
        """Writes captions from parts by greedy decoding, as token ids."""
        return self.decoder.write(parts, max_tokens=self._tokens.shape[1])

    def state_dict(self) -> dict[str, Any]:
        """Returns decoder and optimiser as nested dictionaries of tensors and numbers."""
        return _state_of({"decoder": self.decoder}, {"decoder": self._optimiser})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        _load_state(state, {"decoder": self.decoder}, {"decoder": self._optimiser})


class Reconstruction:
    """Either reconstruction, or both, of one learner.

    Args:
        image: Of images; None switches it off.
        caption: Of captions, likewise.
    """

    def __init__(
        self, *, image: ImageReconstruction | None, caption: CaptionReconstruction | None
    ) -> None:
        self.image = image
        self.caption = caption
        self._totals: dict[str, Tensor] = {}
        self._steps = 0

    def loss(self, image: Parts, text: Parts, pairs: Pairs) -> Float[Tensor, ""]:
        """Returns λ_img L_G + λ_cap L_cap of a batch, to be added to the main loss."""
        total = image.semantic.new_zeros(())
        if self.image is not None:
            loss = self.image.loss(image, pairs.image_rows)
            self._add("generator_loss", loss)
            total = total + self.image.weight * loss
        if self.caption is not None:
            loss = self.caption.loss(text, pairs.text_rows)
            self._add("caption_loss", loss)
            total = total + self.caption.weight * loss
        self._steps += 1
        return total

    def step(self) -> None:
        """Steps its networks by the gradients of the last `loss`, then the discriminators."""
        if self.image is not None:
            self._add("discriminator_loss", self.image.step())
        if self.caption is not None:
            self.caption.step()

    def take_losses(self) -> dict[str, float]:
        """Returns the mean of each loss, before it is weighted, since the last call."""
        means = {name: float(total) / self._steps for name, total in self._totals.items()}
        self._totals, self._steps = {}, 0
        return means

    def state_dict(self) -> dict[str, Any]:
        """Returns all networks and optimisers as nested dictionaries of tensors and numbers."""
        return {name: part.state_dict() for name, part in self._parts()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        for name, part in self._parts():
            part.load_state_dict(state[name])

    def _parts(self) -> list[tuple[str, ImageReconstruction | CaptionReconstruction]]:
        named = (("image", self.image), ("caption", self.caption))
        return [(name, part) for name, part in named if part is not None]

    def _add(self, name: str, loss: Tensor) -> None:
        self._totals[name] = self._totals.get(name, 0) + loss.detach()


def _state_of(
    networks: Mapping[str, nn.Module], optimisers: Mapping[str, torch.optim.Optimizer]
) -> dict[str, Any]:
    return {
        "networks": {name: network.state_dict() for name, network in networks.items()},
        "optimisers": {name: optimiser.state_dict() for name, optimiser in optimisers.items()},
    }


def _load_state(
    state: Mapping[str, Any],
    networks: Mapping[str, nn.Module],
    optimisers: Mapping[str, torch.optim.Optimizer],
) -> None:
    for name, network in networks.items():
        network.load_state_dict(state["networks"][name])
    for name, optimiser in optimisers.items():
        optimiser.load_state_dict(state["optimisers"][name])
