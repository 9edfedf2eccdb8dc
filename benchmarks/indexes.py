"""Measures the kinds of FAISS index on generated vectors: time to build, size, recall, search time.

    python benchmarks/indexes.py                      # 100,000 pairs of 256 numbers, every kind
    python benchmarks/indexes.py --pairs 20000 --kinds hnsw,ivf-flat

Vectors lie in clusters of a subspace, with noise in all directions; the caption of a pair is its
image's vector with noise. All kinds are built in one process, one after the other, of the same
vectors; recall is what `index.json` says, and searches are for one pair at a time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
from tables import markdown

from nccleaner.output.index.building import IndexReport, build_indexes
from nccleaner.output.index.kinds import KINDS, MEMORY_GB, Kind, choose_kind
from nccleaner.output.index.opening import MODALITIES, Modality, open_index

_SHARD = 10_000
_CLUSTERS = 2_000
_SUBSPACE = 64
_SEARCHES = 200


class GeneratedPairs:
    """Pairs in clusters, made shard by shard whenever they are asked for.

    Args:
        count: Pairs.
        dim: Numbers in a vector.
    """

    def __init__(self, count: int, dim: int) -> None:
        self.count = count
        self.dim = dim
        draw = np.random.default_rng(0)
        self._basis = draw.normal(size=(_SUBSPACE, dim)) / dim**0.5
        self._centres = draw.normal(size=(_CLUSTERS, _SUBSPACE))
        self._sizes = [min(_SHARD, count - start) for start in range(0, count, _SHARD)]

    def names(self) -> Iterator[tuple[str, Sequence[str]]]:
        """Yields names and keys."""
        for shard, size in enumerate(self._sizes):
            yield f"{shard:05d}", [f"{shard:05d}{row:04d}" for row in range(size)]

    def blocks(self, modality: Modality) -> Iterator[npt.NDArray[np.float32]]:
        """Yields the vectors of one shard after the other."""
        for shard in range(len(self._sizes)):
            yield self._make(shard, modality)

    def at(self, modality: Modality, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Returns the vectors of some rows."""
        shards = rows // _SHARD
        found = [
            self._make(int(shard), modality)[rows[shards == shard] % _SHARD]
            for shard in np.unique(shards)
        ]
        return np.concatenate([np.empty((0, self.dim), np.float32), *found])

    def _make(self, shard: int, modality: Modality) -> npt.NDArray[np.float32]:
        draw = np.random.default_rng([1, shard])
        size = self._sizes[shard]
        inner = self._centres[draw.integers(_CLUSTERS, size=size)]
        inner = inner + 1.0 * draw.normal(size=inner.shape)
        vectors = inner @ self._basis + 0.3 * draw.normal(size=(size, self.dim)) / self.dim**0.5
        if modality == "text":
            vectors += 2.0 * draw.normal(size=vectors.shape) / self.dim**0.5
        unit: npt.NDArray[np.float32] = vectors.astype(np.float32)
        return unit / np.linalg.norm(unit, axis=1, keepdims=True)


def measure(kind: Kind, pairs: GeneratedPairs, folder: Path) -> tuple[IndexReport, float, float]:
    """Builds both indexes of a kind; returns what was built, its seconds, and those of a search."""
    start = time.monotonic()
    report = build_indexes(
        folder,
        pairs,
        kind=kind,
        memory_bytes=int(MEMORY_GB * 1e9),
        scorer="benchmark",
        seed=0,
        progress=lambda _count: None,
    )
    build_s = time.monotonic() - start
    index = open_index(folder)
    queries = pairs.at("text", np.arange(_SEARCHES))
    start = time.monotonic()
    for query in queries:
        index.search("image", query[None], 10)
    return report, build_s, (time.monotonic() - start) / _SEARCHES


def main() -> None:
    """Runs the benchmark, printing the table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--kinds", default=",".join(KINDS), help="which kinds, with commas")
    arguments = parser.parse_args()
    pairs = GeneratedPairs(arguments.pairs, arguments.dim)
    rows, records = [], []
    for kind in arguments.kinds.split(","):
        with tempfile.TemporaryDirectory() as folder:
            report, build_s, search_s = measure(kind, pairs, Path(folder) / "index")
        size_mb = sum(report.size_bytes.values()) / 1e6
        recalls = [f"{report.recall_at_10[name]:.3f}" for name in MODALITIES]
        effort = ", ".join(str(report.effort[name]) for name in MODALITIES)
        figures = [f"{build_s:.1f}", f"{size_mb:.0f}", *recalls, effort, f"{1000 * search_s:.2f}"]
        rows.append([kind, report.factory, *figures])
        records.append({"kind": kind, "build_s": build_s, "size_mb": size_mb, "recall": recalls})
    heading = ("kind", "factory", "build, s", "size, MB", "R@10 image", "R@10 text", "effort")
    print(markdown([*heading, "search, ms"], rows))
    chosen = choose_kind(pairs.count, pairs.dim, memory_bytes=int(MEMORY_GB * 1e9))
    print(f"\nauto: {chosen}; FAISS {faiss.__version__}, {faiss.omp_get_max_threads()} thread(s)")
    print(json.dumps(records))


if __name__ == "__main__":
    main()
