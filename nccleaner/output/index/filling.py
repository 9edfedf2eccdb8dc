"""Vectors into a FAISS index, block by block, and the index into a file.

Inverted lists do not stay in memory: what was added is written whenever it reaches the limit, and
all that was written is merged list by list. The file is the same, byte for byte, as if FAISS had
filled the index in memory and written it. Other kinds of index FAISS can only hold in memory.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from nccleaner.output.index.library import lists_of, load_faiss

# What FAISS writes, as the last four bytes, for an index that has no lists.
_NO_LISTS = b"il00"
# A row has its number beside its code, and a list that grows takes up to twice what it needs.
_ROW_BYTES = 8
_GROWTH = 2


class Filling(Protocol):
    """An index that takes vectors."""

    def add(self, vectors: npt.NDArray[np.float32]) -> None:
        """Adds vectors [n, dim] as the next rows."""
        ...

    def finish(self) -> Any:
        """Returns the FAISS index to search in, when all vectors are there."""
        ...

    def write(self) -> None:
        """Writes the finished index; what is set on it is kept."""
        ...


class FillingInMemory:
    """An index that is filled in memory.

    Args:
        index: An empty FAISS index, trained.
        path: Where it goes.
    """

    def __init__(self, index: Any, path: Path) -> None:
        self._index = index
        self._path = path

    def add(self, vectors: npt.NDArray[np.float32]) -> None:
        """Adds vectors [n, dim] as the next rows."""
        self._index.add(vectors)

    def finish(self) -> Any:
        """Returns the index itself."""
        return self._index

    def write(self) -> None:
        """Writes it."""
        load_faiss().write_index(self._index, str(self._path))


class FillingOnDisk:
    """An index of inverted lists that is filled on disk.

    Args:
        index: An empty FAISS index, trained.
        path: Where it goes; blocks are written beside it and removed.
        memory_bytes: What is held in memory before it is written.
        finder: A copy of what finds the list of each vector, on GPUs; None: the index's own.
            Adding spends its time there; the lists stay here.
    """

    def __init__(self, index: Any, path: Path, *, memory_bytes: int, finder: Any = None) -> None:
        self._faiss = load_faiss()
        self._index = index
        self._lists = lists_of(index)
        self._path = path
        self._memory_bytes = memory_bytes
        self._own_finder = self._lists.quantizer
        self._finder = finder or self._own_finder
        self._blocks: list[Path] = []
        self._count = 0

    def add(self, vectors: npt.NDArray[np.float32]) -> None:
        """Adds vectors [n, dim] as the next rows."""
        rows = np.arange(self._count, self._count + len(vectors))
        self._lists.quantizer = self._finder
        self._index.add_with_ids(vectors, rows)
        self._lists.quantizer = self._own_finder  # the one that can be written
        self._count += len(vectors)
        row_bytes = _GROWTH * (self._lists.code_size + _ROW_BYTES)
        if self._lists.ntotal * row_bytes >= self._memory_bytes:
            self._write_block()

    def finish(self) -> Any:
        """Merges the blocks and opens the file; its lists stay there."""
        self._write_block()
        # The index keeps what it learned, to write the head of the file from, and loses its lists.
        self._lists.replace_invlists(None, False)
        self._index.ntotal = self._lists.ntotal = self._count
        self._merge()
        self._opened = self._faiss.read_index(str(self._path), self._faiss.IO_FLAG_MMAP)
        return self._opened

    def write(self) -> None:
        """Writes the head of the file again: how many lists to look into is set there."""
        self._lists.nprobe = lists_of(self._opened).nprobe
        with self._path.open("r+b") as file:
            file.write(self._head())

    def _write_block(self) -> None:
        block = self._path.with_suffix(f".{len(self._blocks)}")
        self._faiss.write_index(self._index, str(block))
        self._index.reset()
        self._blocks.append(block)

    def _head(self) -> bytes:
        """The file up to its lists."""
        head: bytes = self._faiss.serialize_index(self._index).tobytes()
        assert head.endswith(_NO_LISTS), "FAISS writes the lists last"
        return head.removesuffix(_NO_LISTS)

    def _merge(self) -> None:
        """Writes the file: sizes of all lists, then of each list its codes and its rows."""
        from faiss.contrib.inspect_tools import get_invlist

        opened = [
            self._faiss.read_index(str(block), self._faiss.IO_FLAG_MMAP) for block in self._blocks
        ]
        blocks = [lists_of(index).invlists for index in opened]
        lists = range(self._lists.nlist)
        sizes = [sum(block.list_size(number) for block in blocks) for number in lists]
        with self._path.open("wb") as file:
            file.write(self._head())
            file.write(struct.pack("<4sQQ", b"ilar", len(lists), self._lists.code_size))
            file.write(struct.pack("<4sQ", b"full", len(lists)) + np.array(sizes, "<u8").tobytes())
            for number in lists:
                found = [get_invlist(block, number) for block in blocks]  # type: ignore[no-untyped-call]
                file.writelines(codes.tobytes() for _, codes in found)
                file.writelines(rows.astype("<i8").tobytes() for rows, _ in found)
        for block in self._blocks:
            block.unlink()
