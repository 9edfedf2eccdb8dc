"""The report's figures: what was measured, as charts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from nccleaner.output.report.charts import Axis, Chart
from nccleaner.output.summary import Estimate, Summary

Floats = npt.NDArray[np.float64]

_TITLES = {
    "corrected_similarity": "corrected similarity",
    "similarity": "similarity",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """All pairs by a score: how many there are, and what they are taken for.

    Attributes:
        score: Name of the score.
        edges: [bins + 1] of the score.
        matched: [bins], pairs that are matched by their clean probabilities, expected.
        mismatched: [bins], the rest.
        labelled_matched: [bins], matched pairs that the labelled ones and the noise rate predict.
        labelled_mismatched: [bins], mismatched ones.
        cut_off: Where the purge cut.
    """

    score: str
    edges: Floats
    matched: Floats
    mismatched: Floats
    labelled_matched: Floats
    labelled_mismatched: Floats
    cut_off: float


@dataclass(frozen=True, slots=True)
class Curve:
    """A quantity after each epoch.

    Attributes:
        name: What it is, for the legend.
        kind: Class that colours it.
        values: [epochs].
    """

    name: str
    kind: str
    values: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveChart:
    """Quantities over epochs, one chart for all.

    Attributes:
        title: What it is about.
        axis: Losses have no bounds; shares lie in [0, 1].
        epochs: [epochs], their numbers; one at least.
        best: The epoch whose networks score; it may be another chart's.
        curves: What is drawn; one at least.
    """

    title: str
    axis: Literal["loss", "share"]
    epochs: Sequence[int]
    best: int
    curves: Sequence[Curve]


def draw_distribution(distribution: Distribution) -> Markup:
    """Draws the pairs by score, split as the judges say, under what the labelled pairs predict."""
    matched, mismatched = distribution.matched, distribution.mismatched
    predicted = (distribution.labelled_mismatched, distribution.labelled_matched)
    edges = distribution.edges
    top = max(float((matched + mismatched).max()), *(float(line.max()) for line in predicted), 1.0)
    chart = Chart(
        Axis(_TITLES[distribution.score], float(edges[0]), float(edges[-1]), _plain),
        Axis("pairs", 0, top * 1.04, _count),
    )
    for kind, low, high in (
        ("mismatched", np.zeros_like(mismatched), mismatched),
        ("matched", mismatched, mismatched + matched),
    ):
        hints = [
            f"{left:.2f} to {right:.2f}: about {count:,.0f} {kind}"
            for left, right, count in zip(edges[:-1], edges[1:], high - low, strict=True)
        ]
        chart.bars(edges, low, high, kind=kind, hints=hints)
    for kind, line in zip(("mismatched", "matched"), predicted, strict=True):
        chart.steps(edges, line, kind=f"{kind} outline")
    chart.rule(distribution.cut_off, f"cut-off {distribution.cut_off:.3g}")
    return chart.svg(
        f"Histogram of the {_TITLES[distribution.score]} of all pairs, split into matched and "
        f"mismatched ones; the cut-off is {distribution.cut_off:.3g}."
    )


def draw_trade_off(summary: Summary) -> Markup:
    """Draws precision over recall with its band, and where the purge stands.

    Args:
        summary: Of the purge; where it estimates fewer than two cut-offs there is nothing to draw.
    """
    points = [
        (recall.value, mismatched)
        for recall, mismatched in [
            *((choice.recall, choice.mismatched) for choice in summary.cut_offs),
            (summary.recall, summary.mismatched_after),
        ]
        if recall and mismatched
    ]
    if len(points) < 2:
        return Markup("")
    points.sort(key=lambda point: point[0])
    recall = [value for value, _ in points]
    lows = [1 - mismatched.high for _, mismatched in points]
    chart = Chart(
        Axis("good pairs kept (recall)", 0, 1, _percent),
        Axis("kept pairs that are matched (precision)", _floor(min(lows)), 1, _percent),
    )
    chart.band(recall, lows, [1 - mismatched.low for _, mismatched in points], kind="matched")
    chart.line(recall, [1 - mismatched.value for _, mismatched in points], kind="matched")
    said = "What the purge gives is not known."
    if summary.precision and summary.recall:
        said = (
            f"The purge keeps {summary.recall.value:.1%} of the good pairs, and "
            f"{summary.precision.value:.1%} of what it keeps is matched."
        )
        chart.cross(_ends(summary.recall), _ends(summary.precision), said)
    return chart.svg(f"Precision over recall of the good pairs, by cut-off. {said}")


def draw_curves(chart: CurveChart) -> Markup:
    """Draws quantities over epochs."""
    values = [value for curve in chart.curves for value in curve.values]
    if chart.axis == "share":
        low, high = _floor(min(values)), 1.0
    else:
        low, high = min(*values, 0.0), max(*values, 1e-6) * 1.04
    epochs = chart.epochs
    drawing = Chart(
        Axis("epoch", min(epochs) - 0.5, max(epochs) + 0.5, _count),
        Axis(chart.axis, low, high, _plain),
    )
    for curve in chart.curves:
        drawing.line(epochs, curve.values, kind=curve.kind)
    if chart.best in epochs:
        drawing.rule(chart.best, f"epoch {chart.best} scores")
    last = ", ".join(f"{curve.name} {curve.values[-1]:.3g}" for curve in chart.curves)
    return drawing.svg(f"{chart.title} by epoch; after the last one: {last}.")


def draw_shares(parts: Mapping[str, int]) -> Markup:
    """Draws one bar of parts that make up a whole.

    Args:
        parts: Count of each part by its class, not all 0.
    """
    total, start = sum(parts.values()), 0.0
    bars = Markup("")
    for kind, count in parts.items():
        width = 100 * count / total
        bars += Markup('<rect class="{}" x="{:.2f}" width="{:.2f}" height="8"/>').format(
            kind, start, width
        )
        start += width
    return Markup(
        '<svg class="share" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        "{}</svg>"
    ).format(bars)


def _ends(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.value, estimate.low, estimate.high


def _floor(share: float) -> float:
    """The next tenth below a share, which leaves an axis to 1 some height."""
    return min(math.floor(share * 10) / 10, 0.9)


def _plain(value: float) -> str:
    return f"{value:g}"


def _percent(value: float) -> str:
    return f"{value:.0%}"


def _count(value: float) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit * 10:
            return f"{value / unit:g}{name}"
    return f"{value:,.0f}" if value == round(value) else ""
