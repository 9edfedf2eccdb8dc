"""The images of the training tables as pixels, for as long as the backbone is fine-tuned."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nccleaner.config import DataConfig
from nccleaner.data.decoding import DecodePool
from nccleaner.data.images import ImageRejected
from nccleaner.data.reading import ShardReading
from nccleaner.errors import ShardError
from nccleaner.pipeline.backbones import decoders_of, limits_of
from nccleaner.pipeline.labelled import LabelledPair
from nccleaner.pipeline.pool import image_identities
from nccleaner.pipeline.reporter import Reporter
from nccleaner.records import OK, ImageSpec, Limits, Shard


def write_pixels(
    path: Path,
    shards: Sequence[Shard],
    labelled: Sequence[LabelledPair],
    *,
    identities: Tensor,
    spec: ImageSpec,
    data: DataConfig,
    reporter: Reporter,
) -> Tensor:
    """Decodes every image of the tables, and maps the file into memory.

    The shards are read again: pixels are a hundred times as large as features, so that they are
    kept on disk while they are needed and no longer.

    Args:
        path: A `.npy` file.
        shards: The input of the fit.
        labelled: The trusted pairs, some of which may have images of their own.
        identities: [images], which images, in the order of the tables.
        spec: The square that the backbone expects.
        data: What a sample may cost.
        reporter: Hears of progress.

    Returns:
        RGB [images, size_px, size_px, 3], uint8.

    Raises:
        ShardError: An image is not in the shards any more.
    """
    row_of = {identity: row for row, identity in enumerate(identities.tolist())}
    pixels = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.uint8, shape=(len(row_of), spec.size_px, spec.size_px, 3)
    )
    limits = limits_of(data)
    with (
        DecodePool(workers=decoders_of(data)) as pool,
        reporter.stage("Decoding images to fine-tune on", len(row_of), "images") as advance,
    ):
        wanted = _wanted(_images(shards, labelled, limits), set(row_of))
        for identity, decoded in pool.decode(wanted, spec=spec, limits=limits):
            if decoded is None or isinstance(decoded, ImageRejected):
                break
            pixels[row_of.pop(identity)] = decoded
            advance(1)
    if row_of:
        raise ShardError(
            f"{len(row_of):,} images that features were extracted from are not in the shards, or "
            "not readable, any more.",
            "Run `nccleaner fit` again, and leave the shards alone while it runs.",
        )
    return torch.from_numpy(pixels)


def _images(
    shards: Sequence[Shard], labelled: Sequence[LabelledPair], limits: Limits
) -> Iterator[bytes]:
    for item in labelled:
        if item.pair.image is not None:
            yield item.pair.image.read_bytes()
    for shard in shards:
        for sample in ShardReading(shard, limits=limits):
            if sample.status == OK and sample.image is not None:
                yield sample.image


def _wanted(images: Iterator[bytes], identities: set[int]) -> Iterator[tuple[int, bytes]]:
    """Yields each image that is wanted once, with its identity."""
    for image in images:
        if not identities:
            return
        identity = int(image_identities([hashlib.sha256(image).hexdigest()]))
        if identity in identities:
            identities.remove(identity)
            yield identity, image
