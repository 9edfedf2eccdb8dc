"""FAISS, loaded when it is needed, and what its Python interface leaves to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nccleaner.errors import MissingDependencyError


def load_faiss() -> Any:
    """Returns the module.

    Raises:
        MissingDependencyError: It cannot be imported.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingDependencyError(
            f"The indexes need FAISS, which cannot be imported: {error}.",
            "pip install 'nccleaner[cpu]'",
        ) from error
    return faiss


@contextmanager
def comparing_many() -> Iterator[None]:
    """Sets FAISS up to compare thousands of vectors at a time, as training and adding do.

    FAISS 1.15 multiplies matrices from 128,000 queries on only, 20 was usual: training the codes of
    an index takes 12 times as long.
    """
    settings = load_faiss().cvar
    usual = settings.distance_compute_blas_threshold
    settings.distance_compute_blas_threshold = 20
    try:
        yield
    finally:
        settings.distance_compute_blas_threshold = usual


def lists_of(index: Any) -> Any:
    """Returns the part of an index that has the inverted lists, with all its attributes."""
    faiss = load_faiss()
    return faiss.downcast_index(faiss.extract_index_ivf(index))


def on_gpus(index: Any) -> Any:
    """Returns a copy of an index on all GPUs; None where FAISS sees none."""
    faiss = load_faiss()
    return faiss.index_cpu_to_all_gpus(index) if faiss.get_num_gpus() else None


def set_effort(index: Any, kind: str, effort: int) -> None:
    """Sets how thoroughly an index searches: lists looked into, or candidates kept in the graph.

    An exact index has no such choice.
    """
    if kind == "hnsw":
        index.hnsw.efSearch = effort
    elif kind != "flat":
        lists_of(index).nprobe = effort


def effort_of(index: Any, kind: str) -> int:
    """Returns what `set_effort` set, or what was read from the file; 0 for an exact index."""
    if kind == "flat":
        return 0
    return int(index.hnsw.efSearch if kind == "hnsw" else lists_of(index).nprobe)


def most_effort(index: Any, kind: str) -> int:
    """Returns the greatest effort that is worth its time."""
    if kind == "flat":
        return 0
    return 1024 if kind == "hnsw" else int(lists_of(index).nlist)
