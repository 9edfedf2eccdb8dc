"""An image encoder that was fine-tuned: the frozen network and its trained copies, side by side.

The frozen network's feature stays, and comes first: what judges a pair without having seen it must
not read what was trained on it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from nccleaner.encoders.images import IMAGE_SPEC, TorchImageEncoder, load_image_network
from nccleaner.encoders.precision import fast_dtype
from nccleaner.encoders.weights import digest_state, load_state
from nccleaner.errors import InputError

# In a file of fine-tuned weights, `backbone.0.` is what the names of the first copy's start with.
BACKBONE = "backbone"


class _SideBySide(nn.Module):
    """[b, h, w, 3] → [b, n f], the features of n networks one after another."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.cat([network(pixels) for network in self.networks], dim=1)


def load_fine_tuned(
    path: Path, *, name: str, weights: Path | None, device: str
) -> TorchImageEncoder:
    """Loads the encoder that fine-tuning made of another.

    Args:
        path: The fine-tuned weights, `.safetensors`.
        name: The encoder that was fine-tuned.
        weights: Its weights, as `load_image_encoder` takes them.
        device: For example `cpu` or `cuda`.

    Returns:
        The encoder. With f the width of the frozen one, its feature holds the frozen feature in the
        columns 0 to f, that of the first copy in f to 2 f, and so on.

    Raises:
        InputError: The file is missing, damaged, or of another network; or what
            `load_image_encoder` raises.
    """
    frozen = load_image_network(name, weights=weights)
    tuned = {
        key: tensor for key, tensor in load_state(path).items() if key.startswith(f"{BACKBONE}.")
    }
    copies: list[nn.Module] = []
    while state := _of_copy(tuned, len(copies)):
        network = copy.deepcopy(frozen.network)
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{path}: these are not weights that {name} was fine-tuned to: {reason}...",
                "Run `nccleaner fit` again.",
            ) from error
        copies.append(network)
    return TorchImageEncoder(
        name=f"fine-tuned {name}",
        network=_SideBySide([frozen.network, *copies]),
        digest=f"{frozen.digest} {digest_state(tuned)}",
        width=(1 + len(copies)) * frozen.width,
        spec=IMAGE_SPEC,
        device=device,
        dtype=fast_dtype(device),
    )


def _of_copy(tensors: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    prefix = f"{BACKBONE}.{index}."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
