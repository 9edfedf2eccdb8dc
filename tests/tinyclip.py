"""A CLIP model so small that it is made in a moment, with random weights in a file."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

_CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def write_tiny_clip(folder: Path) -> tuple[str, Path]:
    """Tells open_clip of the model; returns its name there and a file of weights for it."""
    import open_clip

    architecture = "tiny-of-nccleaner"
    config = folder / f"{architecture}.json"
    config.write_text(json.dumps(_CONFIG))
    open_clip.add_model_config(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.create_model(architecture)
    save_file(model.state_dict(), folder / "tiny.safetensors")
    return architecture, folder / "tiny.safetensors"


def train_on(batch: tuple[torch.Tensor, torch.Tensor], architecture: str) -> tuple[float, float]:
    """Trains a new model for one step on images and tokens; its loss on them before and after."""
    import open_clip

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.create_model(architecture)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    loss_of = open_clip.ClipLoss()
    before = loss_of(*model(*batch))
    before.backward()
    optimizer.step()
    with torch.no_grad():
        return before.item(), loss_of(*model(*batch)).item()
