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
from nccleaner.output.keepset import KeepSet
from nccleaner.output.manifests import (
    MANIFEST_FOLDER,
    REJECTED_FOLDER,
    ManifestReport,
    write_manifest,
)
from nccleaner.output.summary import CutOff, Promise, Summary, write_summary
from nccleaner.output.uids import write_uids
from nccleaner.pipeline.index import index_kept
from nccleaner.pipeline.pricing import Evidence, opposite
from nccleaner.pipeline.reporter import Reporter, SilentReporter, shard_count
from nccleaner.pipeline.results import PurgeResult
from nccleaner.pipeline.score import Scoring
from nccleaner.pipeline.tally import STANDINGS, Tally, count_kept
from nccleaner.pipeline.verdicts import UNLABELLED, Verdicts
from nccleaner.pipeline.workspace import package_versions
from nccleaner.purify.decide import Column, Counts, Decision, meta_prior_decision
from nccleaner.records import MISMATCHED, OK, Shard

_RANGES: dict[Column, tuple[float, float]] = {
    "corrected_similarity": (0.0, 1.0),
    "clean_probability": (0.0, 1.0),
    "similarity": (-1.0, 1.0),
}
_UIDS = "uids.npy"


def purge(
    run: str | Path,
    *,
    threshold: float | None = None,
    by: Column | None = None,
    keep_fraction: float | None = None,
    target_precision: float | None = None,
    sample: str | Path | None = None,
    output: str | Path | None = None,
    reporter: Reporter | None = None,
) -> PurgeResult:
    """Drops the mismatched pairs and writes `clean/`; scores first what is not scored yet.

    Without a `threshold`, `keep_fraction` or `target_precision` the meta-prior rule decides: keep
    the pairs whose `clean_probability` is above 0.5. Pairs labelled 1, trusted or of the sample,
    are kept and those labelled 0 dropped whatever their scores.

    Args:
        run: A run directory with a finished fit.
        threshold: Keep the pairs whose score is at least this.
        by: The score that the cut-off is on; None: `corrected_similarity`.
        keep_fraction: Keep this share of the pairs, in (0, 1], those with the highest scores.
        target_precision: Keep as many pairs as can be while, with a probability of 0.95, at least
            this share of the kept is matched; in (0, 1).
        sample: Labels, 0 and 1, of pairs drawn at random from the shards, in the form of the
            trusted file with a label in every row. Estimates then rest on these alone.
        output: Results of another data set that was scored there; None for the run directory.
        reporter: Hears of progress.

    Raises:
        UsageError: Several rules at once, or a value out of its range.
        RunError: No finished fit.
        InputError: The shards hold no pairs.
        TrustedError: The sample cannot be used.
        PrecisionError: No cut-off can promise the target precision; what an earlier purge wrote is
            left as it is.
    """
    start = time.monotonic()
    reporter = reporter or SilentReporter()
    automatic = threshold is None and keep_fraction is None and target_precision is None
    if by is not None and automatic:
        raise UsageError(
            "A score to cut was named, and no cut-off.",
            "Give a threshold, a fraction or a target precision, or name no score.",
        )
    by = by or "corrected_similarity"
    _check_arguments(threshold, by, keep_fraction, target_precision)
    scoring = Scoring.open(run, output)
    shards = scoring.inputs()
    parts = scoring.score(shards, reporter)
    given = Path(sample) if sample is not None else None
    verdicts = Verdicts.read(scoring, shards, parts, given, reporter)
    column: Column = "clean_probability" if automatic else by
    tally = Tally(column)
    for shard in shards:
        scores = pq.read_table(scoring.scores_path(shard))
        tally.add(scores, verdicts.of(shard.name, scores["key"]))
    if not tally.everything.total:
        raise InputError(
            "The shards hold no pairs to decide about.", "See scores/ for why each was rejected."
        )
    evidence = Evidence.of(tally, scoring)
    promise = None
    if target_precision is not None:
        cutoff, promise = evidence.promise(target_precision)
        decision = Decision(by, cutoff, "target_precision")
    elif threshold is not None:
        decision = Decision(by, threshold, "threshold")
    elif keep_fraction is not None:
        cutoff = float(tally.everything.cutoffs([keep_fraction])[0])
        decision = Decision(by, cutoff, "keep_fraction")
    else:
        decision = meta_prior_decision()
    written = _write(scoring, shards, parts, decision, verdicts, reporter)
    summary = _summarise(decision, evidence, promise, written, parts)
    write_summary(summary, scoring.target.summary)
    KeepSet(scoring.target.root)  # leaves its file beside the manifests
    return PurgeResult(
        folder=scoring.target.clean, summary=summary, seconds=time.monotonic() - start
    )


def _check_arguments(
    threshold: float | None,
    by: Column,
    keep_fraction: float | None,
    target_precision: float | None,
) -> None:
    rules = (threshold, keep_fraction, target_precision)
    if sum(rule is not None for rule in rules) > 1:
        raise UsageError(
            "More than one of a threshold, a fraction and a target precision was given.",
            "Give one of them.",
        )
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
    if target_precision is not None and not 0 < target_precision < 1:
        raise UsageError(
            f"The target precision {target_precision:g} is not between 0 and 1.",
            "Give, for example, 0.95.",
        )


@dataclass
class _Written:
    """What was written.

    Attributes:
        reports: Of each shard.
        unlabelled: [s], kept pairs of each standing that nobody labelled.
    """

    reports: list[ManifestReport] = field(default_factory=list)
    unlabelled: Counts = field(default_factory=lambda: np.zeros(len(STANDINGS), dtype=np.int64))


def _write(
    scoring: Scoring,
    shards: Sequence[Shard],
    parts: Sequence[FeaturePart],
    decision: Decision,
    verdicts: Verdicts,
    reporter: Reporter,
) -> _Written:
    clean = scoring.target.clean
    # The summary goes first and comes last: while it is there, everything beside it belongs to it.
    for path in (scoring.target.summary, scoring.target.report, clean / _UIDS):
        path.unlink(missing_ok=True)
    for name in (MANIFEST_FOLDER, REJECTED_FOLDER):
        shutil.rmtree(clean / name, ignore_errors=True)
    for stale in clean.glob("keepset-*.npy"):
        stale.unlink()
    written = _Written()
    samples = sum(part.report.samples for part in parts)
    title = f"Writing manifests of {shard_count(shards)}"
    with reporter.stage(title, samples, "samples") as advance:
        for shard, part in zip(shards, parts, strict=True):
            scores = pq.read_table(scoring.scores_path(shard)).replace_schema_metadata(None)
            label = verdicts.of(shard.name, scores["key"]).label
            keep = _keep(scores, decision, label)
            written.unlabelled += count_kept(scores, label, keep)
            written.reports.append(
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
                    first_row=sum(report.kept for report in written.reports),
                )
            )
            advance(part.report.samples)
    index_kept(scoring, shards, parts, reporter=reporter)
    write_uids(clean)
    return written


def _keep(
    scores: pa.Table, decision: Decision, label: npt.NDArray[np.int8]
) -> npt.NDArray[np.bool_]:
    """Which samples are kept: those the rule keeps, unless a person said otherwise."""
    passes = decision.keeps(scores[decision.column].fill_null(-2.0).to_numpy())
    liked = np.where(label == UNLABELLED, passes, label == 1)
    kept: npt.NDArray[np.bool_] = liked & pc.equal(scores["status"], OK).to_numpy()
    return kept


def _summarise(
    decision: Decision,
    evidence: Evidence,
    promise: Promise | None,
    written: _Written,
    parts: Sequence[FeaturePart],
) -> Summary:
    dropped: Counter[str] = Counter()
    renamed: dict[str, str] = {}
    for report in written.reports:
        dropped.update(report.dropped)
        renamed.update(report.renamed)
    before, after, recall = evidence.estimates(decision.cutoff, written.unlabelled)
    return Summary(
        samples=sum(part.report.samples for part in parts),
        kept=sum(report.kept for report in written.reports),
        dropped=dict(dropped.most_common()),
        cut_off=CutOff(decision.column, decision.cutoff, decision.rule),
        mismatched_before=before,
        mismatched_after=after,
        good_lost=opposite(recall),
        precision=opposite(after),
        recall=recall,
        evidence=evidence.kind,
        promise=promise,
        cut_offs=evidence.choices(),
        shard_problems={
            part.report.shard: part.report.problem for part in parts if part.report.problem
        },
        renamed_columns=renamed,
        derived_uids=sum(report.derived_uids for report in written.reports),
        versions=package_versions(),
    )
