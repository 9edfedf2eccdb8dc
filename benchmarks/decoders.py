"""Processes that decode and do nothing else: what no pool of decoders can be faster than.

Loads no torch, as the processes import this module: loky has them collect garbage every second,
which takes a while where so much is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import loky

from nccleaner.allocator import keep_freed_memory
from nccleaner.data.images import decode_image
from nccleaner.records import ImageSpec, Limits

# Images that a process decodes at a time.
_AT_A_TIME = 16

# Where an image is in a file: offset and length in bytes.
Place = tuple[int, int]


@contextmanager
def open_decoders(
    workers: int, spec: ImageSpec, limits: Limits
) -> Iterator[Callable[[Path, Sequence[Place]], None]]:
    """Starts processes that read images for themselves, and send nothing back.

    Args:
        workers: How many.
        spec: What images become.
        limits: What one may cost; time has none.

    Yields:
        What decodes the images that lie in a file at some places, and waits for it.
    """
    with loky.ProcessPoolExecutor(
        workers, initializer=keep_freed_memory, env={"OMP_NUM_THREADS": "1"}
    ) as executor:

        def decode(images: Path, places: Sequence[Place]) -> None:
            starts = range(0, len(places), _AT_A_TIME)
            tasks = [places[start : start + _AT_A_TIME] for start in starts]
            for done in [executor.submit(_decode, images, task, spec, limits) for task in tasks]:
                done.result()

        yield decode


def read_images(path: Path, places: Sequence[Place]) -> Iterator[bytes]:
    """Reads the images that lie in a file at some places."""
    with path.open("rb") as file:
        for offset, length in places:
            file.seek(offset)
            yield file.read(length)


def _decode(path: Path, places: Sequence[Place], spec: ImageSpec, limits: Limits) -> None:
    for image in read_images(path, places):
        decode_image(image, spec=spec, limits=limits)
