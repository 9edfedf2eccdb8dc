"""Trains on the kept pairs of the original tars, without a copy of them.

    python examples/filter_webdataset.py nccleaner-run 'shards/{00000..00009}.tar'

`KeepSet` is a predicate over webdataset's samples. Placed before the decoding it costs next to
nothing: a pair that was dropped is read from the tar and no further. Workers share one copy of the
set in memory, 16 bytes a kept pair. In place of the loop at the end stands a training step.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import webdataset
from PIL import Image

import nccleaner

IMAGE_PX = 224


def main() -> None:
    """Counts what the filtered pipeline delivers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="a run that was purged, or its --output folder")
    parser.add_argument("tars", help="its tars, as a brace pattern")
    parser.add_argument("--batch-size", type=int, default=64)
    arguments = parser.parse_args()

    keep = nccleaner.KeepSet(arguments.run)
    pairs = (
        webdataset.WebDataset(arguments.tars, shardshuffle=False)
        .select(keep)
        .shuffle(1000)
        .decode("pil")
        .to_tuple("jpg;png;webp;jpeg", "txt")
        .map_tuple(as_square, str)
        .batched(arguments.batch_size)
    )
    delivered = 0
    for images, captions in pairs:
        delivered += len(images)
        print(f"{len(images)} pairs, the first: {captions[0]!r}")
    print(f"{delivered:,} pairs delivered; the purge kept {len(keep):,}.")


def as_square(image: Image.Image) -> Image.Image:
    """An image as a model takes it, but for its transform to a tensor."""
    return image.convert("RGB").resize((IMAGE_PX, IMAGE_PX))


if __name__ == "__main__":
    main()
