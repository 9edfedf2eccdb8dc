"""Scoring, manifests, purge and indexes of a generated run, each beside its limit."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from generated import GeneratedRun
from loky import cpu_count
from rounds import Row, peak_memory, run_rounds

from nccleaner.config import RunConfig
from nccleaner.data.features import FeaturePart
from nccleaner.files import PARQUET_OPTIONS
from nccleaner.model.products import float32_products
from nccleaner.output.index.kinds import MEMORY_GB, Kind, plan_index
from nccleaner.output.index.opening import MODALITIES
from nccleaner.output.manifests import MANIFEST_FOLDER, REJECTED_FOLDER, write_manifest
from nccleaner.pipeline.index import index
from nccleaner.pipeline.purge import purge
from nccleaner.pipeline.reporter import SilentReporter
from nccleaner.pipeline.score import Scoring, score
from nccleaner.pipeline.scored import score_part
from nccleaner.pipeline.vectors import KeptVectors
from nccleaner.records import MISMATCHED, OK, Shard

# Shards whose manifests are written where nothing else is to be measured.
_WRITTEN = 10
# Of a larger run an index takes minutes.
_INDEXED = 20_000
# The manifests of one are not those of the other.
_FRACTIONS = (0.5, 0.6)


@dataclass(frozen=True)
class Finished:
    """A run that was fitted, in effect; see `generated`.

    Attributes:
        root: Where it is generated.
        pairs: Samples of it.
        config: Of the fit.
    """

    root: Path
    pairs: int
    config: RunConfig

    def rows(
        self, stages: Collection[str], *, kinds: Sequence[Kind], rounds: int, memory: bool
    ) -> Iterator[Row]:
        """Generates the run, scores it, and measures `scoring`, `purge` and `indexes`.

        Args:
            stages: Which of them.
            kinds: Of indexes.
            rounds: After the one that warms up.
            memory: Whether each is done once more, to see what memory it takes.
        """
        self.generate()
        if "scoring" in stages:
            yield self._scoring(rounds=rounds, memory=memory)
        if "purge" in stages:
            yield self._manifests(rounds=rounds)
            yield from self._purge(rounds=rounds, memory=memory)
        if "indexes" in stages:
            small = Finished(self.root.with_name("indexed"), min(self.pairs, _INDEXED), self.config)
            small.generate()
            purge(small.root, keep_fraction=_FRACTIONS[0], index=False)
            for kind in kinds:
                yield small._indexes(kind, rounds=rounds, memory=memory)

    def generate(self) -> None:
        """Writes the run and scores it."""
        GeneratedRun(self.root, self.pairs, self.config).write(features=True, scores=False)
        score(self.root)

    @cached_property
    def _scoring_of(self) -> Scoring:
        return Scoring.open(self.root, None)

    @cached_property
    def _shards(self) -> tuple[Shard, ...]:
        return tuple(self._scoring_of.inputs())

    @cached_property
    def _parts(self) -> list[FeaturePart]:
        return self._scoring_of.store.parts(self._shards, SilentReporter())

    def _scoring(self, *, rounds: int, memory: bool) -> Row:
        scoring = self._scoring_of
        scorer = scoring.scorer
        none = pa.table({"key": pa.array([], pa.string()), "belief": pa.array([], pa.float32())})

        def networks(shard: Shard, part: FeaturePart) -> None:
            score_part(
                shard,
                part,
                scorer,
                pool=none,
                device=scoring.device,
                max_tokens=self.config.model.max_tokens,
                advance=lambda _: None,
            )

        def all_networks() -> None:
            threads = torch.get_num_threads()
            try:
                with (
                    float32_products(rounded=True),
                    ThreadPoolExecutor(
                        min(threads, cpu_count()),
                        initializer=torch.set_num_threads,
                        initargs=(1,),
                    ) as pool,
                ):
                    list(pool.map(networks, self._shards, self._parts))
            finally:
                torch.set_num_threads(threads)

        seconds = run_rounds(
            {"score": lambda: score_again(self.root), "networks": all_networks}, rounds=rounds
        )
        return Row(
            "scoring from the cache",
            "the scorer alone, on parts that are open, a thread a shard",
            "pairs",
            self.pairs,
            seconds["score"],
            seconds["networks"],
            peak_memory(score_again, self.root) if memory else None,
        )

    def _manifests(self, *, rounds: int) -> Row:
        folder = self.root / "manifests"
        tables = [self._table(shard, part) for shard, part in self._some()]

        def ours() -> None:
            first_row = 0
            for shard, (metadata, scores, keep, uids) in zip(self._shards, tables, strict=False):
                first_row += write_manifest(
                    folder,
                    shard=shard.name,
                    metadata=metadata,
                    scores=scores,
                    keep=keep,
                    reasons=pc.if_else(
                        pc.equal(scores["status"], OK), MISMATCHED, scores["status"]
                    ),
                    uids=uids,
                    first_row=first_row,
                    stamp="",
                ).kept

        ours()
        written = [pq.read_table(path) for path in sorted(folder.rglob("*.parquet"))]

        def alone() -> None:
            for number, table in enumerate(written):
                pq.write_table(table, self.root / f"{number}.parquet", **PARQUET_OPTIONS)

        seconds = run_rounds({"ours": ours, "alone": alone}, rounds=rounds)
        return Row(
            "manifest writing",
            "pyarrow writing the same columns",
            "samples",
            sum(table.num_rows for table in written),
            seconds["ours"],
            seconds["alone"],
        )

    def _some(self) -> list[tuple[Shard, FeaturePart]]:
        return list(zip(self._shards, self._parts, strict=True))[:_WRITTEN]

    def _table(
        self, shard: Shard, part: FeaturePart
    ) -> tuple[pa.Table, pa.Table, npt.NDArray[np.bool_], pa.ChunkedArray]:
        """What a shard's manifest is made of: metadata, scores, what is kept, uids."""
        path = self.root / "scores" / f"{shard.name}.parquet"
        scores = pq.read_table(path).replace_schema_metadata(None)
        keep = np.array(scores["status"]) == OK
        keep[::2] = False
        return part.metadata, scores, keep, part.samples["uid"]

    def _purge(self, *, rounds: int, memory: bool) -> Iterator[Row]:
        fractions = cycle(_FRACTIONS)
        last = [0.0]

        def other() -> None:
            last[0] = next(fractions)
            purge_again(self.root, last[0])

        seconds = run_rounds(
            {
                "purge": other,
                "again": lambda: purge_again(self.root, last[0]),
                "files": lambda: _copy_tables(self.root),
                "scores": lambda: list(_read(self.root / "scores")),
            },
            rounds=rounds,
        )
        peak = peak_memory(purge_again, self.root, next(fractions)) if memory else None
        yield Row(
            "purge, another cut-off",
            "pyarrow reading and writing the same files",
            "samples",
            self.pairs,
            seconds["purge"],
            seconds["files"],
            peak,
        )
        yield Row(
            "purge, the same cut-off",
            "pyarrow reading the scores",
            "samples",
            self.pairs,
            seconds["again"],
            seconds["scores"],
        )

    def _indexes(self, kind: Kind, *, rounds: int, memory: bool) -> Row:
        vectors = KeptVectors(self._scoring_of, self._shards, self._parts)
        ready = [np.concatenate(list(vectors.blocks(modality))) for modality in MODALITIES]
        plan = plan_index(
            kind, count=vectors.count, dim=vectors.dim, memory_bytes=int(MEMORY_GB * 1e9)
        )

        def alone() -> None:
            for number, table in enumerate(ready):
                made = faiss.index_factory(vectors.dim, plan.factory, faiss.METRIC_INNER_PRODUCT)
                if plan.sample:
                    made.train(table[: plan.sample])
                made.add(table)
                faiss.write_index(made, str(self.root / f"{number}.faiss"))

        seconds = run_rounds(
            {"ours": lambda: index(self.root, kind=kind), "alone": alone}, rounds=rounds
        )
        return Row(
            f"indexes, {kind}",
            "faiss alone, on vectors in memory",
            "pairs",
            vectors.count,
            seconds["ours"],
            seconds["alone"],
            peak_memory(build_again, self.root, kind) if memory else None,
        )


def score_again(root: Path) -> None:
    """Scores a run whose scores are gone."""
    shutil.rmtree(root / "scores", ignore_errors=True)
    score(root)


def purge_again(root: Path, fraction: float) -> None:
    """Purges a run to a share of it, without indexes."""
    purge(root, keep_fraction=fraction, index=False)


def build_again(root: Path, kind: Kind) -> None:
    """Builds the indexes of a purged run."""
    index(root, kind=kind)


def _reasons(status: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.equal(status, OK), MISMATCHED, status)


def _read(folder: Path) -> Iterator[pa.Table]:
    for path in sorted(folder.rglob("*.parquet")):
        yield pq.read_table(path)


def _copy_tables(root: Path) -> None:
    """Reads what a purge reads, and writes again what it wrote."""
    for folder in ("scores", "features"):
        for _ in _read(root / folder):
            pass
    for folder in (MANIFEST_FOLDER, REJECTED_FOLDER):
        for number, table in enumerate(_read(root / "clean" / folder)):
            pq.write_table(table, root / f"{number}.parquet", **PARQUET_OPTIONS)
