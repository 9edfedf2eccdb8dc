"""`report`: one HTML page about a purge."""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from nccleaner.data.locations import check_unchanged
from nccleaner.errors import RunError
from nccleaner.files import refuse_links
from nccleaner.output.report.figures import Distribution
from nccleaner.output.report.page import Gallery, Report, ShardOutcome, ShownPair, write_report
from nccleaner.output.summary import CutOff, read_summary
from nccleaner.pipeline.curves import read_curves
from nccleaner.pipeline.originals import read_pictures
from nccleaner.pipeline.reporter import Reporter, SilentReporter
from nccleaner.pipeline.results import ReportResult
from nccleaner.pipeline.score import Scoring
from nccleaner.pipeline.scored import has_scores
from nccleaner.pipeline.survey import GALLERY_PAIRS, SURE, Kind, Survey
from nccleaner.purify.decide import Column, Decision, Rule
from nccleaner.purify.judge import Judges

_THUMBNAIL_PX = 160
_SHARDS_LISTED = 100
_GALLERIES: Mapping[Kind, tuple[str, str]] = {
    "surely_mismatched": (
        "Surely mismatched",
        f"Drawn from the pairs with a clean probability of at most {SURE:g}.",
    ),
    "below": ("Just below the cut-off", "The nearest to it, the nearest first."),
    "above": ("Just above the cut-off", "The nearest to it, the nearest first."),
    "surely_matched": (
        "Surely matched",
        f"Drawn from the pairs with a clean probability of at least {1 - SURE:g}.",
    ),
    "random": ("Random sample", "Drawn from all pairs, kept or not."),
}


def report(
    run: str | Path,
    *,
    output: str | Path | None = None,
    reporter: Reporter | None = None,
) -> ReportResult:
    """Writes `clean/report.html` about the last purge: one file that loads nothing.

    Its size is bounded whatever the size of the data set: pairs to look at are drawn by the seed of
    the run. The same purge gives the same bytes.

    Args:
        run: A run directory that was purged.
        output: Results of another data set that was purged there; None for the run directory.
        reporter: Hears of progress.

    Raises:
        RunError: No finished fit, nothing was purged yet, or by the scores of another fit; or
            there are links in the folder of the results.
        ShardError: A shard has changed, or its storage failed.
    """
    start = time.monotonic()
    reporter = reporter or SilentReporter()
    scoring = Scoring.open(run, output)
    refuse_links(scoring.target.root)
    summary = read_summary(scoring.target.summary)
    cut_off = summary.cut_off
    survey = Survey(
        Decision(cast(Column, cut_off.column), cut_off.value, cast(Rule, cut_off.rule)),
        problems=summary.shard_problems,
        seed=scoring.description.config.seed,
    )
    survey.read(scoring.target.clean, summary.samples, reporter)
    pairs = _look_up(survey, scoring, reporter)
    path = scoring.target.report
    write_report(
        Report(
            name=scoring.target.root.resolve().name,
            summary=summary,
            distribution=_distribution(survey, scoring.judges, cut_off),
            galleries=[
                Gallery(title, rule, pairs[kind][:GALLERY_PAIRS])
                for kind, (title, rule) in _GALLERIES.items()
            ],
            sample=pairs["random"],
            shards=_worst(survey.outcomes),
            shard_count=len(survey.outcomes),
            pictured_shards=len(survey.pictured),
            training=read_curves(
                scoring.workspace.metrics, best_epoch=scoring.description.result["best_epoch"]
            ),
            quality=_quality(scoring.description.result),
        ),
        path,
    )
    return ReportResult(path=path, size_bytes=path.stat().st_size, seconds=time.monotonic() - start)


def _look_up(survey: Survey, scoring: Scoring, reporter: Reporter) -> dict[Kind, list[ShownPair]]:
    """Reads captions and images of the pairs that were drawn, from the shards."""
    by_name = {shard.name: shard for shard in scoring.inputs()}
    shards = [by_name[name] for name in survey.pictured]
    for shard in shards:
        check_unchanged(shard)
        if not has_scores(scoring.scores_path(shard), shard, scoring.identity):
            raise RunError(
                f"{scoring.target.clean} was decided by the scores of another fit.",
                "Run `nccleaner purge` again.",
            )
    drawn = {kind: draw.pairs for kind, draw in survey.draws.items()}
    pictures = read_pictures(
        shards,
        {(pair["shard"], pair["key"]) for pairs in drawn.values() for pair in pairs},
        size_px=_THUMBNAIL_PX,
        data=scoring.description.config.data,
        reporter=reporter,
    )
    return {
        kind: [
            ShownPair(**pair, **pictures[pair["shard"], pair["key"]]._asdict()) for pair in pairs
        ]
        for kind, pairs in drawn.items()
    }


def _distribution(survey: Survey, judges: Judges, cut_off: CutOff) -> Distribution:
    """Adds to the pairs of the data set what the labelled ones predict."""
    predicted = {True: np.zeros_like(survey.matched), False: np.zeros_like(survey.matched)}
    for fitted, judge in ((True, judges.fitted), (False, judges.unseen)):
        labelled = judge.labelled
        for is_matched, share in ((True, 1 - judge.noise_rate), (False, judge.noise_rate)):
            scores = labelled.column(survey.score)[labelled.matched == is_matched]
            bars = np.histogram(scores, survey.edges)[0] / max(len(scores), 1)
            predicted[is_matched] += survey.counts[fitted] * share * bars
    return Distribution(
        score=survey.score,
        edges=survey.edges,
        matched=survey.matched,
        mismatched=survey.mismatched,
        labelled_matched=predicted[True],
        labelled_mismatched=predicted[False],
        cut_off=_on_score(cut_off, judges),
    )


def _on_score(cut_off: CutOff, judges: Judges) -> float:
    """The cut-off on the score that the pairs are arranged by."""
    if cut_off.column == "clean_probability":
        return judges.fitted.posterior.corrected_at(cut_off.value)
    return cut_off.value


def _worst(outcomes: Sequence[ShardOutcome]) -> list[ShardOutcome]:
    """The shards to list, by name: all, or those with a problem or the largest losses."""

    def loss(outcome: ShardOutcome) -> tuple[bool, float]:
        return bool(outcome.problem), 1 - outcome.kept / max(outcome.samples, 1)

    listed = heapq.nlargest(_SHARDS_LISTED, outcomes, key=loss)
    return sorted(listed, key=lambda outcome: outcome.shard)


def _quality(result: Mapping[str, Any]) -> dict[str, str]:
    return {
        "Pairs trained on": f"{result['pool']:,}",
        "Captions exchanged to calibrate": f"{result['exchanged']:,}",
        "Trusted pairs": f"{sum(result['trusted'].values()):,}",
        "Epochs": f"{result['epochs']}",
        "AUROC, held-out pairs": f"{result['held_out_auroc']:.3f}",
        "AUROC, planted pairs": f"{result['probe_auroc']:.3f}",
    }
