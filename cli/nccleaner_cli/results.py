"""What came of a command, in words and tables, the same wherever it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nccleaner_cli.console import Column, Display
from nccleaner_cli.text import at_least, bullet_lines, duration, percent, quantity

if TYPE_CHECKING:
    from nccleaner.evaluate.detection import DetectionMetrics
    from nccleaner.evaluate.retrieval import RetrievalMetrics
    from nccleaner.output.summary import Choice, Estimate, Share
    from nccleaner.pipeline.results import (
        FitResult,
        Hit,
        IndexResult,
        PurgeResult,
        Reading,
        ReportResult,
    )

_PROBLEMS_SHOWN = 10
_UNKNOWN = "not known"

_RULES = {
    "threshold": "the threshold given",
    "keep_fraction": "the share to keep that was given",
    "target_precision": "the target precision given",
    "meta_prior": "more likely matched than not, by the trusted pairs",
}


def show_reading(display: Display, reading: Reading, details: str) -> None:
    """Shows what the shards hold, and why samples are no pairs.

    Args:
        display: Where.
        reading: What reading the shards found.
        details: Where all problems are listed.
    """
    display.heading(
        f"Read {quantity(reading.shards, 'shard')}: {quantity(reading.samples, 'sample')}, "
        f"{quantity(reading.pairs, 'pair')}"
    )
    if reading.rejects:
        show_reasons(display, "No pair because", reading.rejects, reading.samples)
    problems = [f"Shard {shard}: {problem}" for shard, problem in reading.problems.items()]
    display.lines(bullet_lines(problems, limit=_PROBLEMS_SHOWN, rest=details))


def show_fit(display: Display, result: FitResult) -> None:
    """Shows what was learned, and from what."""
    details = str(result.run / "run.json")
    show_reading(display, result.reading, details)
    display.heading(f"Used {quantity(sum(result.trusted.values()), 'trusted pair')}")
    parts = {
        "Guide training": result.trusted["meta"],
        "Planted to calibrate": result.trusted["probe"],
        "Held out to judge": result.trusted["held_out"],
        "Set aside for cut-offs": result.trusted["sample"],
    }
    display.facts({name: f"{count:,}" for name, count in parts.items() if count})
    if result.trusted_problems:
        skipped = [f"Row {problem.row}: {problem.reason}" for problem in result.trusted_problems]
        display.paragraph(f"Skipped {quantity(len(skipped), 'row')} of the trusted file:")
        display.lines(bullet_lines(skipped, limit=_PROBLEMS_SHOWN, rest=details))
    display.heading(f"Trained on {quantity(result.pool, 'pair')}")
    display.facts(
        {
            "Captions exchanged": f"{result.exchanged:,}, to calibrate by",
            "Epochs": f"{result.epochs}, of which number {result.best_epoch} is kept",
            "AUROC, held-out pairs": f"{result.held_out_auroc:.3f}",
            "AUROC, planted pairs": f"{result.probe_auroc:.3f}",
            "Estimated mismatched": percent(result.noise_rate),
            "Time": f"{duration(result.seconds)}, training {duration(result.training_s)}",
        }
    )


def show_purge(display: Display, result: PurgeResult) -> None:
    """Shows the cut-off, what it kept and dropped, and what that is estimated to mean."""
    summary = result.summary
    cut_off = summary.cut_off
    dropped = sum(summary.dropped.values())
    display.heading(
        f"Kept {summary.kept:,} of {quantity(summary.samples, 'sample')}, dropped {dropped:,}"
    )
    promised = (
        {
            "Promised": f"{at_least(summary.promise.bound)} or more of the unlabelled kept are "
            f"matched ({summary.promise.level:.0%} sure)"
        }
        if summary.promise
        else {}
    )
    display.facts(
        {
            "Cut-off": f"{cut_off.column} >= {cut_off.value:.4g}",
            "Chosen by": _RULES.get(cut_off.rule, cut_off.rule),
            **promised,
            "Time": duration(result.seconds),
        }
    )
    if summary.dropped:
        display.blank()
        show_reasons(display, "Dropped because", summary.dropped, summary.samples)
    _show_estimates(
        display,
        {
            "Mismatched before": summary.mismatched_before,
            "Mismatched among the kept": summary.mismatched_after,
            "Good among the kept (precision)": summary.precision,
            "Good pairs kept (recall)": summary.recall,
        },
    )
    _show_choices(display, summary.cut_off.column, summary.cut_offs)


def show_report(display: Display, result: ReportResult) -> None:
    """Shows where the page is."""
    size = f"{result.size_bytes / 1e6:.1f} MB"
    display.heading(f"Wrote {result.path}")
    display.facts({"Size": size, "Time": duration(result.seconds)})


def show_index(display: Display, result: IndexResult) -> None:
    """Shows what was built and how good it is."""
    report = result.report
    display.heading(f"Indexed {quantity(report.count, 'pair')}: {report.kind} ({report.factory})")
    display.table(
        (Column("Index"), Column("Size", right=True), Column("Recall@10", right=True)),
        [
            (name, f"{report.size_bytes[name] / 1e6:,.1f} MB", _figure(report.recall_at_10[name]))
            for name in report.size_bytes
        ],
    )
    display.facts({"Time": duration(result.seconds)})


def show_hits(display: Display, hits: Sequence[Hit]) -> None:
    """Shows the pairs that a search found, the nearest first."""
    columns = (
        Column("Product", right=True),
        Column("Pair", share=0.35),
        Column("Caption", elastic=True),
    )
    rows = [(f"{hit.product:.3f}", f"{hit.shard}/{hit.key}", hit.caption) for hit in hits]
    display.table(columns, rows)


def show_retrieval(display: Display, metrics: RetrievalMetrics, *, folds: int = 1) -> None:
    """Shows recalls both ways, of all pairs or as the mean over `folds` parts of them."""
    within = f", mean of {folds} folds" if folds > 1 else ""
    display.heading(
        f"Retrieval among {quantity(metrics.images, 'image')} "
        f"and {quantity(metrics.captions, 'caption')}{within}"
    )
    columns = [Column(""), *(Column(title, right=True) for title in ("R@1", "R@5", "R@10"))]
    to_text = (metrics.image_to_text_r1, metrics.image_to_text_r5, metrics.image_to_text_r10)
    to_image = (metrics.text_to_image_r1, metrics.text_to_image_r5, metrics.text_to_image_r10)
    display.table(
        columns,
        [
            ("Caption of an image", *(f"{recall:.1f}%" for recall in to_text)),
            ("Image of a caption", *(f"{recall:.1f}%" for recall in to_image)),
        ],
    )
    display.facts({"Sum of the six": f"{metrics.rsum:.1f} of 600"})


def show_detection(display: Display, metrics: DetectionMetrics) -> None:
    """Shows how the decision and the scores compare with the truth."""
    display.heading(
        f"Compared with the truth about {quantity(metrics.pairs, 'pair')}, "
        f"{percent(metrics.noise_rate)} of them mismatched"
    )
    display.table(
        (Column(""), Column("Kept", right=True), Column("Dropped", right=True)),
        [
            ("Matched", f"{metrics.kept_matched:,}", f"{metrics.dropped_matched:,}"),
            ("Mismatched", f"{metrics.kept_mismatched:,}", f"{metrics.dropped_mismatched:,}"),
        ],
    )
    display.blank()
    display.facts(
        {
            "AUROC": _figure(metrics.auroc),
            "AUPRC": _figure(metrics.auprc),
            "F1 of the decision": _figure(metrics.f1),
            "F1 of the best cut-off": f"{_figure(metrics.best_f1)}, at corrected_similarity >= "
            f"{_figure(metrics.best_cutoff)}",
            "Calibration error": _figure(metrics.calibration_error),
            "Estimated mismatched": percent(metrics.estimated_noise_rate),
        }
    )


def interval(estimate: Estimate) -> str:
    """Its ends, as `28.1% to 34.6%`."""
    return f"{percent(estimate.low)} to {percent(estimate.high)}"


def _figure(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def show_reasons(display: Display, title: str, counts: Mapping[str, int], samples: int) -> None:
    """Shows why samples are not there, the most frequent reason first."""
    columns = (Column(title), Column("Samples", right=True), Column("Share", right=True))
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    display.table(columns, [(name, f"{n:,}", percent(n / samples)) for name, n in ordered])


def _show_choices(display: Display, column: str, choices: Sequence[Choice]) -> None:
    """Shows what other cut-offs on a score would do."""
    titles = ("If you cut at", "you keep", "of which mismatched", "and of the good")
    columns = [Column(title, right=True) for title in titles]
    rows = [
        (
            f"{choice.value:.4f}",
            f"{choice.kept:,}",
            _share(choice.mismatched),
            _share(choice.recall),
        )
        for choice in choices
    ]
    display.blank()
    display.table(columns, rows)
    by = column.replace("_", "-")
    display.paragraph(f"Take one with --threshold CUT --by {by}.")


def _share(share: Share | None) -> str:
    return f"{percent(share.value)} ({_ends(share)})" if share else _UNKNOWN


def _ends(share: Share) -> str:
    return f"{100 * share.low:.1f}-{percent(share.high)}"


def _show_estimates(display: Display, estimates: Mapping[str, Estimate | None]) -> None:
    """Shows shares with their intervals, then what they were estimated from."""
    known = [estimate for estimate in estimates.values() if estimate]
    level = f"{known[0].level:.0%} interval" if known else "Interval"
    columns = (Column("Estimated"), Column("Share", right=True), Column(level, right=True))
    rows = [(name, *_estimated(estimate)) for name, estimate in estimates.items()]
    display.blank()
    display.table(columns, rows)
    sources = dict.fromkeys(estimate.source for estimate in known)
    if sources:
        display.paragraph(f"Estimated from: {'; '.join(sources)}.")


def _estimated(estimate: Estimate | None) -> tuple[str, str]:
    return (percent(estimate.value), interval(estimate)) if estimate else (_UNKNOWN, "")
