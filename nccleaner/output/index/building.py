"""Builds the FAISS indexes: embeddings of the kept pairs in, the index folder out.

One index after the other, each trained on a sample and filled shard by shard. In memory are the
sample, one shard's vectors and, of an index without inverted lists, the index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nccleaner.files import PARQUET_OPTIONS, replace_folder, write_json
from nccleaner.output.index.filling import Filling, FillingInMemory, FillingOnDisk
from nccleaner.output.index.kinds import Kind, Plan, plan_index
from nccleaner.output.index.library import (
    comparing_many,
    lists_of,
    most_effort,
    on_gpus,
    set_effort,
)
from nccleaner.output.index.opening import (
    ABOUT_FILE,
    IDS_FILE,
    IDS_SCHEMA,
    MODALITIES,
    Modality,
    checksums,
    index_file,
)
from nccleaner.output.index.recall import DEPTH, ExactNearest, find_effort
from nccleaner.output.index.training import train_index

Vectors = npt.NDArray[np.float32]

# A search reads all names that lie together; of fewer there were too many groups to list.
_IDS_TOGETHER = 10_000
# Pairs whose captions look for images and whose images look for captions, as a search does: one
# half of them finds how thoroughly to search, the other measures the recall of that.
_QUERIES = 200
_TARGET_RECALL = 0.95
_FIRST_EFFORT: Mapping[Kind, int] = {"hnsw": 16, "ivf-flat": 1, "ivf-pq": 1}


class PairVectors(Protocol):
    """The embeddings of pairs, as often as they are asked for; rows are numbered through."""

    @property
    def count(self) -> int:
        """How many pairs."""
        ...

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        ...

    def names(self) -> Iterator[tuple[str, Sequence[str]]]:
        """Yields shard after shard its name and the keys of its pairs, in the order of rows."""
        ...

    def blocks(self, modality: Modality) -> Iterator[Vectors]:
        """Yields the vectors [n, dim] of one shard after the other."""
        ...

    def at(self, modality: Modality, rows: npt.NDArray[np.int64]) -> Vectors:
        """Returns the vectors [n, dim] of n rows, which ascend."""
        ...


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What was built.

    Attributes:
        kind: The kind of index.
        factory: The same, with parameters, for FAISS's `index_factory`.
        count: Pairs in it.
        size_bytes: Of each file.
        effort: How thoroughly each searches: lists looked into, or candidates in the graph; 0 where
            the search is exact.
        recall_at_10: Share of the ten nearest that each finds, in [0, 1]; None where it is empty.
    """

    kind: Kind
    factory: str
    count: int
    size_bytes: Mapping[Modality, int]
    effort: Mapping[Modality, int]
    recall_at_10: Mapping[Modality, float | None]


def build_indexes(
    folder: Path,
    vectors: PairVectors,
    *,
    kind: Kind,
    memory_bytes: int,
    scorer: str,
    seed: int,
    progress: Callable[[int], None],
) -> IndexReport:
    """Builds `image.faiss` and `text.faiss`, with what tells whose they are.

    After an error an earlier folder is as it was.

    Args:
        folder: The index folder; an earlier one is replaced as a whole.
        vectors: What goes in.
        kind: The kind of both.
        memory_bytes: What may be held in memory, where the kind allows.
        scorer: Identity of what the vectors were made by.
        seed: Draws the samples.
        progress: Hears of vectors that were added: twice as many as pairs.

    Returns:
        What was built.

    Raises:
        MissingDependencyError: FAISS is not installed.
        UsageError: Too few pairs for the kind.
    """
    plan = plan_index(kind, count=vectors.count, dim=vectors.dim, memory_bytes=memory_bytes)
    with replace_folder(folder) as temporary, comparing_many():
        _write_ids(vectors, temporary / IDS_FILE)
        efforts: dict[Modality, int] = {}
        recalls: dict[Modality, float | None] = {}
        for modality in MODALITIES:
            efforts[modality], recalls[modality] = _build(
                temporary / index_file(modality), vectors, modality, plan, seed, progress
            )
        report = IndexReport(
            kind=kind,
            factory=plan.factory,
            count=vectors.count,
            size_bytes={name: (temporary / index_file(name)).stat().st_size for name in MODALITIES},
            effort=efforts,
            recall_at_10=recalls,
        )
        about = {
            "kind": kind,
            "factory": plan.factory,
            "metric": "inner_product",
            "dim": vectors.dim,
            "count": vectors.count,
            "trained_on": plan.sample,
            "effort": efforts,
            "size_bytes": report.size_bytes,
            "recall_at_10": recalls,
            "recall_queries": _QUERIES // 2,
            "scorer": scorer,
            "checksums": checksums(temporary),
        }
        write_json(about, temporary / ABOUT_FILE)
    return report


def _write_ids(vectors: PairVectors, path: Path) -> None:
    first, unwritten = 0, IDS_SCHEMA.empty_table()
    with pq.ParquetWriter(path, IDS_SCHEMA, **PARQUET_OPTIONS) as file:
        for shard, keys in vectors.names():
            rows = pa.array(np.arange(first, first + len(keys)))
            columns = [rows, pa.repeat(shard, len(keys)), pa.array(keys, pa.string())]
            unwritten = pa.concat_tables([unwritten, pa.table(columns, schema=IDS_SCHEMA)])
            first += len(keys)
            if unwritten.num_rows >= _IDS_TOGETHER:
                file.write_table(unwritten)
                unwritten = IDS_SCHEMA.empty_table()
        file.write_table(unwritten)
    assert first == vectors.count, "a row without a name"


def _build(
    path: Path,
    vectors: PairVectors,
    modality: Modality,
    plan: Plan,
    seed: int,
    progress: Callable[[int], None],
) -> tuple[int, float | None]:
    """Trains, fills, measures and writes one index; returns its effort and its recall."""
    draw = np.random.default_rng(seed)
    sample = _draw_rows(draw, plan.sample, vectors.count)
    asking: Modality = "text" if modality == "image" else "image"
    queries = np.sort(draw.integers(vectors.count, size=_QUERIES if vectors.count else 0))
    exact = ExactNearest(vectors.at(asking, queries))

    index = train_index(plan, vectors.at(modality, sample), dim=vectors.dim)
    filling: Filling = (
        FillingOnDisk(
            index,
            path,
            memory_bytes=plan.memory_bytes,
            finder=on_gpus(lists_of(index).quantizer),
        )
        if plan.has_lists
        else FillingInMemory(index, path)
    )
    for block in vectors.blocks(modality):
        assert np.isfinite(block).all(), f"a vector of {modality} that is not finite"
        filling.add(block)
        exact.add(block)
        progress(len(block))
    finished = filling.finish()
    effort, recall = _measure(finished, plan.kind, exact) if vectors.count else (0, None)
    set_effort(finished, plan.kind, effort)
    filling.write()
    return effort, recall


def _draw_rows(draw: np.random.Generator, size: int, count: int) -> npt.NDArray[np.int64]:
    """Draws different rows of `count`, ascending: one of each of `size` equal stretches.

    Memory is that of what is drawn.
    """
    ends = np.arange(size + 1) * count // max(size, 1)
    return draw.integers(ends[:-1], ends[1:])


def _measure(index: Any, kind: Kind, exact: ExactNearest) -> tuple[int, float]:
    def search(queries: Vectors, effort: int) -> npt.NDArray[np.int64]:
        set_effort(index, kind, effort)
        rows: npt.NDArray[np.int64] = index.search(queries, min(DEPTH, index.ntotal))[1]
        return rows

    efforts, most = [_FIRST_EFFORT.get(kind, 0)], most_effort(index, kind)
    while efforts[-1] < most:
        efforts.append(min(2 * efforts[-1], most))
    return find_effort(search, exact, efforts=efforts, target=_TARGET_RECALL)
