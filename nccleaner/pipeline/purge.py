"""`purge`: scores to decisions, manifests, rejects, indexes and a summary."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nccleaner.data.features import FeaturePart
from nccleaner.errors import InputError, UsageError
from nccleaner.output.indexes import IndexBuilder, build_index
from nccleaner.output.keepset import KeepSet
from nccleaner.output.manifests import (
    MANIFEST_FOLDER,
    REJECTED_FOLDER,
    ManifestReport,
    write_manifest,
)
from nccleaner.output.summary import CutOff, Estimate, Summary, write_summary
from nccleaner.output.uids import write_uids
from nccleaner.pipeline.reporter import Reporter, SilentReporter, shard_count
from nccleaner.pipeline.results import PurgeResult
from nccleaner.pipeline.score import Scoring
from nccleaner.pipeline.scored import features_of, is_pair, pairs_of
from nccleaner.pipeline.workspace import package_versions, read_checkpoint
from nccleaner.purify.decide import (
    LEVEL,
    Column,
    Decision,
    FractionFinder,
    Interval,
    Price,
    Standing,
    empty_histogram,
    meta_prior_decision,
    price,
)
from nccleaner.purify.mixture import Floats, histogram
from nccleaner.records import MISMATCHED, OK, Shard

_RANGES: dict[Column, tuple[float, float]] = {
    "corrected_similarity": (0.0, 1.0),
    "clean_probability": (0.0, 1.0),
    "similarity": (-1.0, 1.0),
}
_UIDS = "uids.npy"
_INDEX = "index"
_SOURCE = (
    "trusted pairs and mismatched ones made of them: the frozen evidence of all of them for the "
    "noise rate, planted probes and held-out pairs for the cut-off; assumes that trusted pairs are "
    "like the good pairs of the shards"
)


def purge(
    run: str | Path,
    *,
    threshold: float | None = None,
    by: Column = "corrected_similarity",
    keep_fraction: float | None = None,
    output: str | Path | None = None,
    reporter: Reporter | None = None,
) -> PurgeResult:
    """Drops the mismatched pairs and writes `clean/`; scores first what is not scored yet.

    Without `threshold` and `keep_fraction` the meta-prior rule decides: keep the pairs whose
    `clean_probability` is above 0.5. Trusted pairs labelled 1 are kept and those labelled 0 dropped
    whatever their scores.

    Args:
        run: A run directory with a finished fit.
        threshold: Keep the pairs whose score is at least this.
        by: The score that is compared.
        keep_fraction: Keep this share of the pairs, in (0, 1], those with the highest scores.
        output: Results of another data set that was scored there; None for the run directory.
        reporter: Hears of progress.

    Raises:
        UsageError: Both rules at once, or a value out of its range.
        RunError: No finished fit.
        InputError: The shards hold no pairs.
    """
    start = time.monotonic()
    reporter = reporter or SilentReporter()
    _check_arguments(threshold, by, keep_fraction)
    scoring = Scoring.open(run, output)
    shards = scoring.inputs()
    parts = scoring.score(shards, reporter)
    totals = _Totals(by)
    for shard in shards:
        totals.add(pq.read_table(scoring.scores_path(shard)))
    if not totals.pairs:
        raise InputError(
            "The shards hold no pairs to decide about.", "See scores/ for why each was rejected."
        )
    if threshold is not None:
        decision = Decision(by, threshold, "threshold")
    elif keep_fraction is not None:
        decision = totals.finder.decision(keep_fraction)
    else:
        decision = meta_prior_decision()
    cost = totals.price(decision, scoring)
    reports = _write(scoring, shards, parts, decision, reporter)
    summary = _summarise(decision, cost, reports, parts)
    write_summary(summary, scoring.target.summary)
    return PurgeResult(
        folder=scoring.target.clean, summary=summary, seconds=time.monotonic() - start
    )


def _check_arguments(threshold: float | None, by: Column, keep_fraction: float | None) -> None:
    if threshold is not None and keep_fraction is not None:
        raise UsageError("A threshold and a fraction were given.", "Give one of the two.")
    if by not in _RANGES:
        raise UsageError(f"{by!r} is no score.", f"Use one of {', '.join(_RANGES)}.")
    low, high = _RANGES[by]
    if threshold is not None and not low <= threshold <= high:
        raise UsageError(
            f"The threshold {threshold:g} is outside the range of {by}, {low:g} to {high:g}.",
            "Give a value in that range.",
        )
    if keep_fraction is not None and not 0 < keep_fraction <= 1:
        raise UsageError(
            f"The fraction {keep_fraction:g} is not in (0, 1].", "Give, for example, 0.6."
        )


@dataclass
class _Totals:
    """What all scores together tell; filled shard by shard."""

    by: Column
    pairs: int = 0
    finder: FractionFinder = field(init=False)
    histograms: dict[bool, Floats] = field(init=False)
    counts: Counter[bool] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.finder = FractionFinder(self.by)
        self.histograms = {True: empty_histogram(), False: empty_histogram()}

    def add(self, scores: pa.Table) -> None:
        pairs = scores.filter(pc.equal(scores["status"], OK))
        self.pairs += pairs.num_rows
        self.finder.add(pairs[self.by].to_numpy())
        fitted = pairs["fitted"].to_numpy()
        corrected = pairs["corrected_similarity"].to_numpy()
        for standing in (True, False):
            mine = corrected[fitted == standing]
            self.histograms[standing] += histogram(mine)
            self.counts[standing] += len(mine)

    def price(self, decision: Decision, scoring: Scoring) -> Price:
        judges = scoring.scorer.judges
        assert judges is not None
        return price(
            decision,
            [
                Standing(judges.fitted, self.histograms[True], self.counts[True]),
                Standing(judges.unseen, self.histograms[False], self.counts[False]),
            ],
            seed=scoring.description.config.seed,
        )


def _write(
    scoring: Scoring,
    shards: Sequence[Shard],
    parts: Sequence[FeaturePart],
    decision: Decision,
    reporter: Reporter,
) -> list[ManifestReport]:
    clean = scoring.target.clean
    # The summary goes first and comes last: while it is there, everything beside it belongs to it.
    for path in (scoring.target.summary, clean / _UIDS):
        path.unlink(missing_ok=True)
    for name in (MANIFEST_FOLDER, REJECTED_FOLDER):
        shutil.rmtree(clean / name, ignore_errors=True)
    for stale in clean.glob("keepset-*.npy"):
        stale.unlink()
    trusted = read_checkpoint(scoring.workspace.trusted)
    reports = []
    samples = sum(part.report.samples for part in parts)
    architecture = scoring.scorer.architecture
    dim = len(scoring.scorer.networks) * architecture.joint_width
    title = f"Writing manifests and indexes of {shard_count(shards)}"
    with (
        build_index(clean / _INDEX, dim=dim) as index,
        reporter.stage(title, samples, "samples") as advance,
    ):
        for shard, part in zip(shards, parts, strict=True):
            scores = pq.read_table(scoring.scores_path(shard)).replace_schema_metadata(None)
            labels = trusted.filter(pc.equal(trusted["shard"], shard.name))
            is_labelled = scoring.is_of_fit(shard)
            keep = _keep(scores, decision, labels if is_labelled else labels.slice(0, 0))
            reports.append(
                write_manifest(
                    clean,
                    shard=shard.name,
                    metadata=part.metadata,
                    scores=scores,
                    keep=keep,
                    reasons=[
                        MISMATCHED if status == OK else status
                        for status in scores["status"].to_pylist()
                    ],
                    uids=part.samples["uid"].to_pylist(),
                    first_row=index.count,
                )
            )
            _index_kept(index, scoring, shard, part, keep)
            advance(part.report.samples)
    write_uids(clean)
    KeepSet(scoring.target.root)  # leaves its file beside the manifests
    return reports


def _keep(scores: pa.Table, decision: Decision, labels: pa.Table) -> npt.NDArray[np.bool_]:
    """Which samples are kept: those the rule keeps, unless a person said otherwise."""
    is_pair_here = pc.equal(scores["status"], OK).to_numpy()
    keep = decision.keeps(scores[decision.column].fill_null(-2.0).to_numpy())
    for label in (0, 1):
        keys = labels.filter(pc.equal(labels["label"], label))["key"]
        named = pc.is_in(scores["key"], value_set=keys.combine_chunks()).to_numpy()
        keep = np.where(named, bool(label), keep)
    kept: npt.NDArray[np.bool_] = keep & is_pair_here
    return kept


def _index_kept(
    index: IndexBuilder,
    scoring: Scoring,
    shard: Shard,
    part: FeaturePart,
    keep: npt.NDArray[np.bool_],
) -> None:
    config, device, scorer = scoring.description.config, scoring.device, scoring.scorer
    features = features_of(part, scorer, device=device, max_tokens=config.model.max_tokens)
    pairs = pairs_of(part, scorer, device=device)
    chosen = np.flatnonzero(keep[is_pair(part).to_numpy()])
    images = scorer.embed_images(features.images).cpu().numpy()
    texts = scorer.embed_texts(features.texts).cpu().numpy()
    index.add(
        shard=shard.name,
        keys=part.samples["key"].filter(pa.array(keep)).to_pylist(),
        image=images[pairs.image_rows.cpu().numpy()[chosen]],
        text=texts[pairs.text_rows.cpu().numpy()[chosen]],
    )


def _summarise(
    decision: Decision,
    cost: Price,
    reports: Sequence[ManifestReport],
    parts: Sequence[FeaturePart],
) -> Summary:
    dropped: Counter[str] = Counter()
    renamed: dict[str, str] = {}
    for report in reports:
        dropped.update(report.dropped)
        renamed.update(report.renamed)
    return Summary(
        samples=sum(part.report.samples for part in parts),
        kept=sum(report.kept for report in reports),
        dropped=dict(dropped.most_common()),
        cut_off=CutOff(decision.column, decision.cutoff, decision.rule),
        mismatched_before=_estimate(cost.before),
        mismatched_after=_estimate(cost.after) if cost.after else None,
        good_lost=_estimate(cost.lost),
        shard_problems={
            part.report.shard: part.report.problem for part in parts if part.report.problem
        },
        renamed_columns=renamed,
        derived_uids=sum(report.derived_uids for report in reports),
        versions=package_versions(),
    )


def _estimate(interval: Interval) -> Estimate:
    return Estimate(interval.value, interval.low, interval.high, LEVEL, _SOURCE)
