"""`purge`: scores to decisions, manifests, rejects, indexes and a summary."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nccleaner.data.features import FeaturePart
from nccleaner.data.trusted import read_trusted
from nccleaner.errors import InputError, UsageError
from nccleaner.output.keepset import write_keepset
from nccleaner.output.manifests import ManifestReport, paths_of_others
from nccleaner.output.summary import CutOff, Promise, Summary, write_summary
from nccleaner.output.uids import write_uids
from nccleaner.pipeline.division import Deciding, Division, Undecided, Unwritten, Writing
from nccleaner.pipeline.engines import EngineName, open_engine
from nccleaner.pipeline.index import index_kept
from nccleaner.pipeline.pricing import Evidence, opposite
from nccleaner.pipeline.reporter import Reporter, SilentReporter, shard_count
from nccleaner.pipeline.results import PurgeResult
from nccleaner.pipeline.score import Scoring
from nccleaner.pipeline.tally import ReadingOfScores, Tally
from nccleaner.pipeline.verdicts import Verdicts
from nccleaner.pipeline.workspace import package_versions
from nccleaner.purify.decide import Column, Counts, Decision, meta_prior_decision
from nccleaner.records import Shard

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
    index: bool = True,
    output: str | Path | None = None,
    engine: EngineName = "local",
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
        keep_fraction: Keep this share of the pairs, in (0, 1]: those labelled 1, which are kept in
            any case, and of the others those with the highest scores.
        target_precision: Keep as many pairs as can be while, with a probability of 0.95, at least
            this share of the kept is matched; in (0, 1).
        sample: Labels, 0 and 1, of pairs drawn at random from the shards, in the form of the
            trusted file with a label in every row. Estimates then rest on these alone.
        index: Whether to build the FAISS indexes too; `index` builds them later.
        output: Results of another data set that was scored there, or, where nothing was, of the
            shards of the fit; None for the run directory.
        engine: `local`, or `ray` for a cluster.
        reporter: Hears of progress.

    Raises:
        UsageError: Several rules at once, a value out of its range, or no such engine.
        RunError: No finished fit, or another process is at work there.
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
    labels = None if sample is None else read_trusted(sample, label_required=True)
    with open_engine(engine) as opened:
        scoring = Scoring.open(run, output, opened)
        shards = scoring.inputs()
        with scoring.occupied(shards):
            if scoring.target != scoring.workspace and not scoring.target.inputs.exists():
                reporter.note(
                    f"Nothing was scored into {scoring.target.root}: it gets the shards of the fit."
                )
            parts = scoring.score(shards, reporter)
            verdicts = Verdicts.read(scoring, shards, parts, labels, reporter)
            column: Column = "clean_probability" if automatic else by
            samples = sum(part.report.samples for part in parts)
            tally = _tally(scoring, shards, verdicts, column, samples, reporter)
            if not tally.everything.total:
                raise InputError(
                    "The shards hold no pairs to decide about.",
                    "See scores/ for why each was rejected.",
                )
            evidence = Evidence.of(tally, scoring)
            if evidence.doubt:
                reporter.warn(
                    f"{evidence.doubt}. Label pairs drawn at random from these shards, and give "
                    "them with --sample."
                )
            promise = None
            if target_precision is not None:
                cutoff, promise = evidence.promise(target_precision)
                decision = Decision(by, cutoff, "target_precision")
            elif threshold is not None:
                decision = Decision(by, threshold, "threshold")
            elif keep_fraction is not None:
                decision = Decision(by, evidence.keeping(keep_fraction), "keep_fraction")
                labelled = evidence.known.matched
                if labelled > keep_fraction * tally.everything.total:
                    reporter.note(
                        f"The {labelled:,} pairs that are labelled 1 are more than the share that "
                        "was asked for, and kept in any case."
                    )
            else:
                decision = meta_prior_decision()
            division = Division(
                scoring.target.scores.absolute(),
                scoring.target.clean.absolute(),
                decision,
                verdicts,
            )
            outcome = _divide(scoring, shards, parts, division, reporter)
            clean = scoring.target.clean
            if index and not scoring.target.index.exists():
                index_kept(scoring, shards, parts, reporter=reporter)
            _write_names(clean, reporter)
            summary = _summarise(decision, evidence, promise, outcome, parts)
            write_summary(summary, scoring.target.summary)
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


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of the shards.

    Attributes:
        reports: Of each shard.
        unlabelled: [s], kept pairs of each standing that nobody labelled.
    """

    reports: list[ManifestReport]
    unlabelled: Counts


def _tally(
    scoring: Scoring,
    shards: Sequence[Shard],
    verdicts: Verdicts,
    column: Column,
    samples: int,
    reporter: Reporter,
) -> Tally:
    tally = Tally(column)
    job = ReadingOfScores(scoring.target.scores.absolute(), column, verdicts)
    with reporter.stage(f"Reading scores of {shard_count(shards)}", samples, "samples") as advance:
        for pairs in scoring.store.engine.run(job, [shard.name for shard in shards], advance):
            tally.add(pairs)
    return tally


def _divide(
    scoring: Scoring,
    shards: Sequence[Shard],
    parts: Sequence[FeaturePart],
    division: Division,
    reporter: Reporter,
) -> _Outcome:
    """Writes what is not there yet; what depends on it is removed first, and written last."""
    run_job = scoring.store.engine.run
    undecided = [Undecided(shard.name, scoring.store.fingerprint(shard)) for shard in shards]
    samples = sum(part.report.samples for part in parts)
    with reporter.stage(f"Deciding on {shard_count(shards)}", samples, "samples") as advance:
        decided = list(run_job(Deciding(division), undecided, advance))
    reports: dict[str, ManifestReport] = {}
    todo: list[Unwritten] = []
    first_row = 0
    for shard, part, what in zip(shards, parts, decided, strict=True):
        stamp = f"{what.digest} {first_row}"
        if what.written is not None and what.written.stamp == stamp:
            reports[shard.name] = what.written.report
        else:
            todo.append(Unwritten(shard.name, part, first_row, stamp))
        first_row += what.kept
    _remove_outdated(scoring, shards, changes=bool(todo))
    if todo:
        title = f"Writing manifests of {shard_count(todo)}"
        samples = sum(item.part.report.samples for item in todo)
        with reporter.stage(title, samples, "samples") as advance:
            for report in run_job(Writing(division), todo, advance):
                reports[report.shard] = report
    unlabelled = np.sum([what.unlabelled for what in decided], axis=0)
    return _Outcome([reports[shard.name] for shard in shards], unlabelled)


def _remove_outdated(scoring: Scoring, shards: Sequence[Shard], *, changes: bool) -> None:
    """Removes the summary, and what is made of all manifests if one of them changes or goes."""
    clean = scoring.target.clean
    scoring.target.summary.unlink(missing_ok=True)
    scoring.target.report.unlink(missing_ok=True)
    others = paths_of_others(clean, {shard.name for shard in shards})
    if not changes and not others:
        return
    shutil.rmtree(scoring.target.index, ignore_errors=True)
    for path in (clean / _UIDS, *clean.glob("keepset-*.npy"), *others):
        path.unlink(missing_ok=True)


def _write_names(clean: Path, reporter: Reporter) -> None:
    """Writes the uids and the keep set where they are missing."""
    tasks: list[Callable[[Path], object]] = [write_keepset]
    if not (clean / _UIDS).exists():
        tasks.append(write_uids)
    title = "Sorting the names of the kept pairs"
    with reporter.stage(title, len(tasks), "files") as advance:
        for task in tasks:
            task(clean)
            advance(1)


def _summarise(
    decision: Decision,
    evidence: Evidence,
    promise: Promise | None,
    outcome: _Outcome,
    parts: Sequence[FeaturePart],
) -> Summary:
    dropped: Counter[str] = Counter()
    renamed: dict[str, str] = {}
    for report in outcome.reports:
        dropped.update(report.dropped)
        renamed.update(report.renamed)
    before, after, recall = evidence.estimates(decision.cutoff, outcome.unlabelled)
    return Summary(
        samples=sum(part.report.samples for part in parts),
        kept=sum(report.kept for report in outcome.reports),
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
        derived_uids=sum(report.derived_uids for report in outcome.reports),
        versions=package_versions(),
    )
