"""What the demo says: each step in plain words, every figure from the results of that step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nccleaner_cli.console import Column, Display
from nccleaner_cli.example import Example, Reject
from nccleaner_cli.results import interval, show_hits
from nccleaner_cli.text import command_line, duration, percent, quantity

if TYPE_CHECKING:
    from nccleaner.evaluate.detection import DetectionMetrics
    from nccleaner.output.summary import Estimate
    from nccleaner.pipeline.results import FitResult, Hit, PurgeResult, ReportResult


def announce(display: Display, title: str, *command: str | Path) -> None:
    """Starts a step, and shows the command that does the same by hand."""
    display.heading(title)
    display.command(command_line("nccleaner", *map(_seen_from_here, command)))


def tell_data(display: Display, example: Example) -> None:
    """Says what the data are, and what is known about them."""
    display.heading("1. The data")
    display.paragraph(
        f"{_seen_from_here(example.folder)} holds {example.pairs:,} drawings of the Open Clip Art "
        f"Library with the captions that people gave them. {example.shuffled:,} of the captions "
        "were handed on to another drawing: mismatched, as happens on the web by accident. "
        f"nccleaner is not told which. It gets a list of {example.looked_at:,} pairs that somebody "
        "looked at (trusted.csv); the truth (truth.csv) is kept aside until step 4."
    )


def tell_fit(display: Display, fitted: FitResult) -> None:
    """Says what was learned."""
    reading = fitted.reading
    display.blank()
    display.paragraph(
        f"Read {quantity(reading.samples, 'sample')} from {quantity(reading.shards, 'shard')}, "
        f"{quantity(reading.pairs, 'pair')} among them. The trusted pairs showed two networks what "
        f"belonging together looks like; in {quantity(fitted.epochs, 'epoch')} each learned to "
        "tell which of the other pairs to believe, and taught the other. Of a trusted pair that "
        "they never saw and a wrong pairing of such images and captions, they score the right one "
        f"higher in {percent(fitted.held_out_auroc)} of the cases. Of the pairs that "
        f"nobody looked at, {percent(fitted.noise_rate)} are mismatched, as far as the trusted "
        "pairs can tell. "
        f"({duration(fitted.seconds)})"
    )


def tell_purge(
    display: Display, purged: PurgeResult, *, rows: tuple[int, int], rejects: Sequence[Reject]
) -> None:
    """Says what was kept and dropped.

    Args:
        display: Where.
        purged: What the purge says.
        rows: Rows of the manifests and of the rejects, counted in the files.
        rejects: The pairs that are surest to be mismatched.
    """
    summary = purged.summary
    kept, rejected = rows
    lost = summary.samples - kept - rejected
    display.blank()
    verdict = "every sample is in one of them" if not lost else f"{lost:,} SAMPLES ARE LOST"
    display.paragraph(
        f"Kept the pairs with {summary.cut_off.column} >= {summary.cut_off.value:.3g}. Counted in "
        f"the files: {kept:,} rows in manifest/ + {rejected:,} in rejected/ = {kept + rejected:,}; "
        f"{quantity(summary.samples, 'sample')} came in: {verdict}. ({duration(purged.seconds)})"
    )
    _tell_estimates(
        display,
        {
            "of all pairs were mismatched": summary.mismatched_before,
            "of the kept ones still are": summary.mismatched_after,
            "of the good ones were lost": summary.good_lost,
        },
    )
    display.blank()
    display.paragraph(
        f"The {len(rejects)} that it is surest of. The title is what the author called the "
        "drawing, which nccleaner does not read; the caption is what it found in the shard:"
    )
    columns = (
        Column("Pair"),
        Column("Title", share=0.3),
        Column("Caption in the shard", elastic=True),
    )
    display.table(columns, [(reject.pair, reject.title, reject.caption) for reject in rejects])


def tell_detection(display: Display, metrics: DetectionMetrics, seconds: float) -> None:
    """Compares what was found with the truth."""
    shuffled = metrics.dropped_mismatched + metrics.kept_mismatched
    good = metrics.dropped_matched + metrics.kept_matched
    kept = metrics.kept_matched + metrics.kept_mismatched
    display.blank()
    display.paragraph(
        f"Of {quantity(metrics.pairs, 'pair')}; the trusted ones are left out, as nccleaner was "
        "told about those:"
    )
    display.table(
        (Column(""), Column("Pairs", right=True), Column("Share", right=True)),
        [
            _part("Shuffled captions that were caught", metrics.dropped_mismatched, shuffled),
            _part("Good pairs that were lost", metrics.dropped_matched, good),
            _part("Right captions before", good, metrics.pairs),
            _part("Right captions among the kept", metrics.kept_matched, kept),
        ],
    )
    auroc = "not defined" if metrics.auroc is None else f"{metrics.auroc:.3f}"
    display.blank()
    display.paragraph(
        f"AUROC {auroc}: the chance that a shuffled pair scores below a good one; 0.5 is guessing, "
        "1 is perfect. Perfect is out of reach here: some captions were wrong before any was "
        f"shuffled, and some fit their new drawing by chance. ({duration(seconds)})"
    )


def tell_report(display: Display, report: ReportResult) -> None:
    """Says where the page is, and what is on it."""
    display.blank()
    display.paragraph(
        "One page with the scores, what other cut-offs would give, and pairs with their images, "
        f"those around the cut-off among them. Open it in a browser: {report.path} "
        f"({duration(report.seconds)})"
    )


def tell_hits(display: Display, query: str, hits: Sequence[Hit], seconds: float) -> None:
    """Shows what a search found among the kept pairs."""
    display.blank()
    display.paragraph(f'Nearest to "{query}" ({duration(seconds)}):')
    show_hits(display, hits)


def tell_next(display: Display, run: Path) -> None:
    """Says where everything is, and how to go on with other data."""
    display.heading("7. Your own data")
    display.paragraph(
        f"All of this is in {run}: clean/manifest lists the kept pairs, clean/rejected the others "
        "with their reasons, run.json the settings. For your own shards, look at a few hundred of "
        "the pairs, write the keys of those that match into a CSV with the column key, and type:"
    )
    display.command(command_line("nccleaner", "fit", "your-shards/", "--meta", "trusted.csv"))
    display.command(command_line("nccleaner", "purge"))


def _tell_estimates(display: Display, estimates: dict[str, Estimate | None]) -> None:
    known = [
        f"{percent(estimate.value)} ({interval(estimate)}) {what}"
        for what, estimate in estimates.items()
        if estimate
    ]
    if known:
        display.paragraph(f"Estimated without the truth: {'; '.join(known)}.")


def _part(name: str, part: int, whole: int) -> tuple[str, str, str]:
    return name, f"{part:,} of {whole:,}", percent(part / whole) if whole else "none"


def _seen_from_here(word: str | Path) -> str | Path:
    """A path as seen from the working directory, where it is below."""
    here = Path.cwd()
    if isinstance(word, Path) and word.is_relative_to(here):
        return word.relative_to(here)
    return word
