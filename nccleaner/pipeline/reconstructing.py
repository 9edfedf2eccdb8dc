"""Reconstruction as the configuration wants it, and the sheet that shows what came of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from nccleaner.config import RunConfig
from nccleaner.output.sheet import Rebuilt, write_sheet
from nccleaner.pipeline.device import DeviceTables
from nccleaner.train.learner import Learner
from nccleaner.train.pairs import Pairs
from nccleaner.train.reconstruction import (
    CaptionReconstruction,
    ImageReconstruction,
    Reconstruction,
)

_SHEET_PAIRS = 8  # of each group


def build_reconstruction(
    data: DeviceTables, config: RunConfig, *, seed: int
) -> Reconstruction | None:
    """Builds what reconstructs for one learner; None where both terms are switched off.

    Args:
        data: The training tables with their targets.
        config: Weights and widths.
        seed: Of the weights of its networks.
    """
    train, model = config.train, config.model
    images, captions = data.tables.targets
    device = str(data.device)
    image = caption = None
    if images is not None:
        image = ImageReconstruction(
            weight=train.image_reconstruction,
            targets=images,
            joint_width=model.joint_width,
            width=model.generator_width,
            learning_rate=train.generator_learning_rate,
            seed=seed,
            device=device,
        )
    if captions is not None:
        caption = CaptionReconstruction(
            weight=train.caption_reconstruction,
            tokens=captions.ids,
            vocabulary=captions.tokenizer.vocabulary,
            embedding_width=model.embedding_width,
            joint_width=model.joint_width,
            learning_rate=train.learning_rate,
            seed=seed,
            device=device,
        )
    if image is None and caption is None:
        return None
    return Reconstruction(image=image, caption=caption)


def write_reconstructions(
    learner: Learner, data: DeviceTables, *, seed: int, folder: Path
) -> list[Path]:
    """Writes pairs of the pool and held-out ones beside their reconstructions.

    The networks are those after the last step; held-out pairs have taught none of them.

    Args:
        learner: Reconstructs.
        data: The training tables.
        seed: Of the pairs that are drawn.
        folder: Where the files go.

    Returns:
        The files written; none where reconstruction is switched off.
    """
    if learner.reconstruction is None:
        return []
    noisy = len(data.pool) - data.probes
    groups = {
        "pool": data.pool.take(torch.arange(noisy)),
        "held out": data.on_device(data.tables.held_out.matched),
    }
    generator = torch.Generator().manual_seed(seed)
    rebuilt = {}
    for name, pairs in groups.items():
        drawn = torch.randperm(len(pairs), generator=generator)[:_SHEET_PAIRS]
        rebuilt[name] = _rebuild(learner, learner.reconstruction, data, pairs.take(drawn))
    return write_sheet(rebuilt, folder)


@torch.no_grad()
def _rebuild(
    learner: Learner, reconstruction: Reconstruction, data: DeviceTables, pairs: Pairs
) -> list[Rebuilt]:
    net = learner.main_net.eval()
    targets = data.tables.targets
    image, text = net(*data.features.of(pairs))
    images: list[np.ndarray | None] = [None] * len(pairs)
    captions: list[tuple[str, str] | None] = [None] * len(pairs)
    if reconstruction.image is not None and targets.images is not None:
        both = (targets.images[pairs.image_rows.cpu()], reconstruction.image.rebuild(image).cpu())
        images = list(torch.stack(both, dim=1).numpy())
    if reconstruction.caption is not None and targets.captions is not None:
        ids, tokenizer = targets.captions
        said = tokenizer.decode(ids[pairs.text_rows.cpu()].numpy())
        again = tokenizer.decode(reconstruction.caption.rebuild(text).cpu().numpy())
        captions = list(zip(said, again, strict=True))
    return [Rebuilt(images=two, captions=both) for two, both in zip(images, captions, strict=True)]
