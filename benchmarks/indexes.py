"""Measures the kinds of FAISS index on generated vectors: time, memory, size, recall, searches.

    python benchmarks/indexes.py                      # 100,000 pairs of 256 numbers, every kind
    python benchmarks/indexes.py --pairs 20000 --kinds hnsw,ivf-flat
    python benchmarks/indexes.py --pairs 200000,1000000 --kinds ivf-pq

Vectors lie in clusters of a subspace, with noise in all directions; the caption of a pair is its
image's vector with noise. All are built in one run, one after the other, each in a process of its
own, whose peak memory is what is told; another process opens what was built and searches, for one
pair at a time. Recall is what `index.json` says.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np
import numpy.typing as npt
from tables import markdown

from nccleaner.output.index.building import IndexReport, build_indexes
from nccleaner.output.index.kinds import KINDS, MEMORY_GB, Kind, choose_kind
from nccleaner.output.index.opening import MODALITIES, Modality, open_index

Vectors = npt.NDArray[np.float32]

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
        self._basis = _normal(draw, _SUBSPACE, dim) / np.float32(dim**0.5)
        self._centres = _normal(draw, _CLUSTERS, _SUBSPACE)
        self._sizes = [min(_SHARD, count - start) for start in range(0, count, _SHARD)]

    def names(self) -> Iterator[tuple[str, Sequence[str]]]:
        """Yields names and keys."""
        for shard, size in enumerate(self._sizes):
            yield f"{shard:05d}", [f"{shard:05d}{row:04d}" for row in range(size)]

    def blocks(self, modality: Modality) -> Iterator[Vectors]:
        """Yields the vectors of one shard after the other."""
        for shard in range(len(self._sizes)):
            yield self._make(shard, modality)

    def at(self, modality: Modality, rows: npt.NDArray[np.int64]) -> Vectors:
        """Returns the vectors of some rows."""
        found = np.empty((len(rows), self.dim), np.float32)
        shards = rows // _SHARD
        for shard in np.unique(shards):
            found[shards == shard] = self._make(shard, modality)[rows[shards == shard] % _SHARD]
        return found

    def _make(self, shard: int, modality: Modality) -> Vectors:
        draw = np.random.default_rng([1, shard])
        size = self._sizes[shard]
        inner = self._centres[draw.integers(_CLUSTERS, size=size)] + _normal(draw, size, _SUBSPACE)
        spread = np.float32(self.dim**-0.5)
        vectors: Vectors = inner @ self._basis + 0.3 * spread * _normal(draw, size, self.dim)
        if modality == "text":
            vectors += 2.0 * spread * _normal(draw, size, self.dim)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors


def _normal(draw: np.random.Generator, *shape: int) -> Vectors:
    return draw.standard_normal(shape, np.float32)


class Build(NamedTuple):
    """How both indexes of a kind were built.

    Attributes:
        report: What was built.
        seconds: Of building.
        empty_mb: Memory of the process before.
        peak_mb: The most it had.
    """

    report: IndexReport
    seconds: float
    empty_mb: float
    peak_mb: float


class Searches(NamedTuple):
    """How they were searched.

    Attributes:
        first_ms: Opening both and the first search, names included.
        later_ms: Of each search after that.
        resident_mb: Memory that this took, mapped pages of the files included.
    """

    first_ms: float
    later_ms: float
    resident_mb: float


@dataclass(frozen=True)
class Trial:
    """A kind, and how many pairs of which width."""

    kind: Kind
    count: int
    dim: int

    def build(self, folder: Path) -> Build:
        """Builds both indexes."""
        start, empty_mb = time.monotonic(), _peak_mb()
        report = build_indexes(
            folder,
            GeneratedPairs(self.count, self.dim),
            kind=self.kind,
            memory_bytes=int(MEMORY_GB * 1e9),
            scorer="benchmark",
            seed=0,
            progress=lambda _count: None,
        )
        return Build(report, time.monotonic() - start, empty_mb, _peak_mb())

    def search(self, folder: Path) -> Searches:
        """Opens the indexes and searches."""
        queries = GeneratedPairs(min(self.count, _SEARCHES + 1), self.dim)._make(0, "text")
        start, empty_mb = time.monotonic(), _peak_mb()
        index = open_index(folder)
        for place, query in enumerate(queries):
            rows, _ = index.search("image", query[None], 10)
            index.ids(rows[0])
            if not place:
                opened = time.monotonic()
        later_s = (time.monotonic() - opened) / (len(queries) - 1)
        return Searches(1000 * (opened - start), 1000 * later_s, _peak_mb() - empty_mb)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def measure(trial: Trial) -> tuple[Build, Searches]:
    """Builds, then searches, each in a new process."""
    new = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        with ProcessPoolExecutor(1, mp_context=new) as process:
            build = process.submit(trial.build, path).result()
        with ProcessPoolExecutor(1, mp_context=new) as process:
            return build, process.submit(trial.search, path).result()


def main() -> None:
    """Runs the benchmark, printing the table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", default="100000", help="how many; several with commas")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--kinds", default=",".join(KINDS), help="which kinds, with commas")
    arguments = parser.parse_args()
    rows, records = [], []
    for count in map(int, arguments.pairs.split(",")):
        for kind in arguments.kinds.split(","):
            build, searches = measure(Trial(kind, count, arguments.dim))
            rows.append([f"{count:,}", kind, *_cells(build, searches)])
            records.append({"pairs": count, "kind": kind, **_record(build, searches)})
        chosen = choose_kind(count, arguments.dim, memory_bytes=int(MEMORY_GB * 1e9))
        print(f"auto, of {count:,} pairs: {chosen}")
    heading = "pairs,kind,factory,build s,peak MB,size MB,R@10 image,R@10 text,effort"
    print(markdown([*heading.split(","), "first search ms", "later ms", "resident MB"], rows))
    print(f"\nFAISS {faiss.__version__}, {faiss.omp_get_max_threads()} thread(s)")
    print(json.dumps(records))


def _cells(build: Build, searches: Searches) -> list[str]:
    report = build.report
    size_mb = sum(report.size_bytes.values()) / 1e6
    recalls = [f"{report.recall_at_10[name]:.3f}" for name in MODALITIES]
    effort = ", ".join(str(report.effort[name]) for name in MODALITIES)
    memory = f"{build.peak_mb:.0f} - {build.empty_mb:.0f}"
    searched = [f"{searches.first_ms:.0f}", f"{searches.later_ms:.2f}"]
    return [
        report.factory,
        f"{build.seconds:.1f}",
        memory,
        f"{size_mb:.0f}",
        *recalls,
        effort,
        *searched,
        f"{searches.resident_mb:.0f}",
    ]


def _record(build: Build, searches: Searches) -> dict[str, object]:
    return {**asdict(build.report), **build._asdict(), **searches._asdict(), "report": None}


if __name__ == "__main__":
    main()
