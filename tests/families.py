"""Training tables of images with several captions each, whose captions moved in a known way."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from networks import rows

from nccleaner.data.noise import NoiseKind, mismatched, permute_captions
from nccleaner.pipeline.pool import Targets, TrainingTables
from nccleaner.train.pairs import Features, TrustedPairs

IMAGES, META, PROBES, HELD_OUT = 400, 100, 80, 60
RATE = 0.4
NONE = rows(torch.arange(0))
_WIDTH = 24


def make_family(captions: int, kind: NoiseKind) -> tuple[TrainingTables, npt.NDArray[np.bool_]]:
    """Makes tables, and tells which pairs of the pool are matched.

    One caption of each of the first images is trusted; the others of the same images are in the
    pool. Images say less of their captions than captions of each other.
    """
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    hidden = normal(IMAGES, 8)
    images = hidden @ normal(8, _WIDTH) + 3 * normal(IMAGES, _WIDTH)
    own = hidden.repeat_interleave(captions, dim=0)
    texts = own @ normal(8, _WIDTH) + 1.5 * normal(len(own), _WIDTH)

    image_of = np.arange(len(own)) // captions
    trusted = np.arange(META + PROBES + HELD_OUT) * captions
    meta, probes, held_out = np.split(trusted, [META, META + PROBES])
    planted = probes.copy()
    planted[: PROBES // 2] = np.roll(planted[: PROBES // 2], 1)
    noisy = np.setdiff1d(np.arange(len(own)), trusted)
    names = [str(image) for image in image_of[noisy]]
    moved = permute_captions(names, ratio=RATE, seed=0, kind=kind)
    wrong = mismatched(moved, names, [str(caption) for caption in noisy])
    tables = TrainingTables(
        features=Features(images, texts),
        identities=torch.arange(IMAGES),
        pool=rows(
            torch.from_numpy(image_of[np.append(noisy, probes)]),
            torch.from_numpy(np.append(noisy[moved], planted)),
        ),
        pool_samples=pa.table({}),
        probe_matched=planted == probes,
        probe_exchanged=planted != probes,
        meta=TrustedPairs(rows(image_of[meta], meta), NONE),
        held_out=TrustedPairs(rows(image_of[held_out], held_out), NONE),
        tokenizer="",
        vocabulary=0,
        targets=Targets(None, None),
    )
    return tables, np.append(~wrong, planted == probes)
