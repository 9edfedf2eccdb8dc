"""`index`: the FAISS indexes of the kept pairs, of a kind that was chosen or told."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from nccleaner.data.features import FeaturePart
from nccleaner.errors import UsageError
from nccleaner.files import remove_leftovers
from nccleaner.output.index.building import IndexReport, build_indexes
from nccleaner.output.index.kinds import KINDS, MEMORY_GB, Kind, choose_kind
from nccleaner.output.index.opening import MODALITIES
from nccleaner.output.summary import read_summary
from nccleaner.pipeline.reporter import Reporter, SilentReporter
from nccleaner.pipeline.results import IndexResult
from nccleaner.pipeline.score import Scoring
from nccleaner.pipeline.vectors import KeptVectors
from nccleaner.records import Shard

KindChoice = Literal["auto"] | Kind


def index(
    run: str | Path,
    *,
    kind: KindChoice = "auto",
    memory_gb: float = MEMORY_GB,
    output: str | Path | None = None,
    reporter: Reporter | None = None,
) -> IndexResult:
    """Builds the indexes of a purge again; an earlier pair of them stays until it is replaced.

    Args:
        run: A run directory that was purged.
        kind: `flat` (exact), `hnsw`, `ivf-flat` or `ivf-pq`; `auto` chooses by size and memory.
        memory_gb: What building may hold in memory, where the kind allows; above 0.
        output: Results of another data set; None for the run directory.
        reporter: Hears of progress.

    Raises:
        UsageError: No such kind, no memory, or too few pairs for the kind.
        RunError: Nothing was purged yet, or another process is at work there.
        MissingDependencyError: FAISS is not installed.
    """
    start = time.monotonic()
    if kind not in ("auto", *KINDS) or not memory_gb > 0:
        raise UsageError(
            f"There is no index of kind {kind!r} in {memory_gb:g} GB.",
            f"Use one of auto, {', '.join(KINDS)}, and more than 0 GB.",
        )
    scoring = Scoring.open(run, output)
    read_summary(scoring.target.summary)  # a purge that is not finished has none
    reporter = reporter or SilentReporter()
    shards = scoring.inputs()
    with scoring.occupied(shards):
        parts = scoring.store.parts(shards, reporter)
        report = index_kept(
            scoring, shards, parts, kind=kind, memory_gb=memory_gb, reporter=reporter
        )
    return IndexResult(folder=scoring.target.index, report=report, seconds=time.monotonic() - start)


def index_kept(
    scoring: Scoring,
    shards: Sequence[Shard],
    parts: Sequence[FeaturePart],
    *,
    reporter: Reporter,
    kind: KindChoice = "auto",
    memory_gb: float = MEMORY_GB,
) -> IndexReport:
    """Builds the indexes of what the manifests list.

    Args:
        scoring: The run that was purged.
        shards: What was purged, in that order.
        parts: Their features.
        reporter: Hears of progress.
        kind: The kind; `auto` chooses.
        memory_gb: What building may hold in memory, where the kind allows.
    """
    vectors = KeptVectors(scoring, shards, parts)
    memory_bytes = int(memory_gb * 1e9)
    if kind == "auto":
        kind = choose_kind(vectors.count, vectors.dim, memory_bytes=memory_bytes)
    remove_leftovers(scoring.target.clean)
    total = len(MODALITIES) * vectors.count
    with reporter.stage(f"Building indexes ({kind})", total, "vectors") as advance:
        return build_indexes(
            scoring.target.index,
            vectors,
            kind=kind,
            memory_bytes=memory_bytes,
            scorer=scoring.identity,
            seed=scoring.description.config.seed,
            progress=advance,
        )
