"""DataComp's subset file: the uids of all kept pairs, as numbers, sorted.

In: the manifests. Out: `uids.npy`, as the resharder of DataComp reads it (`resharder.py` in
mlfoundations/datacomp): a one-dimensional array of pairs of 64-bit integers, the two halves of
each uid, in which it searches by halving and takes a sample as often as its uid is there.

The resharder reads the uid from the JSON of a sample. Of shards without uids it
therefore finds none: the derived ones stand in the manifests only.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from nccleaner.files import replace_file
from nccleaner.output.manifests import read_manifests

UID_DTYPE = np.dtype([("f0", "<u8"), ("f1", "<u8")])

# Sorting happens in this many parts, by the leading bits, so that the memory it takes is that of
# the largest part: 16 MB for 64 million uids, which are spread evenly.
_PARTS = 64


def write_uids(clean: Path) -> int:
    """Writes `clean/uids.npy` from the manifests in `clean`.

    A uid that several kept pairs share is written once: the resharder takes each of those pairs
    once then. It would take every one of them as often as the uid is there.

    Returns:
        The number of uids written.
    """
    batches = read_manifests(clean, ["uid"])
    return write_sorted(
        (to_numbers(bytes.fromhex("".join(batch["uid"].to_pylist()))) for batch in batches),
        clean / "uids.npy",
    )


def to_numbers(uids: bytes) -> npt.NDArray[np.void]:
    """Turns n uids, 16 bytes each, into an array [n] of `UID_DTYPE`."""
    halves = np.frombuffer(uids, ">u8").reshape(-1, 2)  # [n, 2]
    numbers = np.empty(len(halves), UID_DTYPE)
    numbers["f0"], numbers["f1"] = halves.T
    return numbers


def write_sorted(blocks: Iterable[npt.NDArray[np.void]], path: Path) -> int:
    """Writes numbers of 128 bits to a `.npy` file, sorted, each once.

    Args:
        blocks: Arrays of `UID_DTYPE`, one-dimensional, in any order.
        path: The file, which appears when it is whole.

    Returns:
        The number of numbers written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        parts = [
            stack.enter_context(tempfile.TemporaryFile(dir=path.parent)) for _ in range(_PARTS)
        ]
        for block in blocks:
            _distribute(block, parts)
        count = sum(_sort_part(part) for part in parts)
        with replace_file(path) as temporary, temporary.open("wb") as file:
            header = {"descr": UID_DTYPE.descr, "fortran_order": False, "shape": (count,)}
            np.lib.format.write_array_header_1_0(file, header)
            for part in parts:
                part.seek(0)
                shutil.copyfileobj(part, file)
    return count


def _distribute(block: npt.NDArray[np.void], parts: Sequence[IO[bytes]]) -> None:
    part_of = (block["f0"] >> np.uint64(64 - (_PARTS - 1).bit_length())).astype(np.uint8)
    block = block[np.argsort(part_of, kind="stable")]
    starts = np.cumsum(np.bincount(part_of, minlength=_PARTS))[:-1]
    for part, numbers in zip(parts, np.split(block, starts), strict=True):
        part.write(numbers.tobytes())


def _sort_part(part: IO[bytes]) -> int:
    part.seek(0)
    numbers = np.frombuffer(part.read(), UID_DTYPE)
    # Both are much faster than np.unique, which compares the records one by one. Two numbers hardly
    # ever share one half without the other.
    numbers = numbers[np.argsort(numbers["f0"])]
    if (numbers["f0"][1:] == numbers["f0"][:-1]).any():
        numbers = numbers[np.lexsort((numbers["f1"], numbers["f0"]))]
    is_first = np.ones(len(numbers), bool)
    is_first[1:] = numbers[1:] != numbers[:-1]
    part.seek(0)
    part.truncate()
    part.write(numbers[is_first].tobytes())
    return int(np.count_nonzero(is_first))
