"""Charts as inline SVG: what is drawn is in data units, what leaves is markup for a page.

Marks have classes and no colours; the page's style sheet colours them, for light and for dark.
Text is text, so that it can be read aloud and searched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

Values = Sequence[float] | npt.NDArray[np.float64]

# A phone shows this width nearly as it is, a wide page a little larger: both keep text readable.
_WIDTH, _HEIGHT = 440, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 22, 36, 44
_TICKS = 5
_CAP = 4


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis with a linear scale.

    Attributes:
        title: What it shows, with its unit.
        low: Value at its start.
        high: Value at its end, above `low`.
        label: Writes a value beside its tick.
    """

    title: str
    low: float
    high: float
    label: Callable[[float], str]

    def ticks(self) -> list[float]:
        """Returns round values within the axis."""
        from matplotlib.ticker import MaxNLocator

        values = MaxNLocator(_TICKS, steps=[1, 2, 5, 10]).tick_values(self.low, self.high)
        slack = 1e-9 * (self.high - self.low)
        return [float(v) for v in values if self.low - slack <= v <= self.high + slack]

    def place(self, value: float) -> float:
        """Returns where a value is along the axis, 0 at its start, 1 at its end; never beyond."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)


class Chart:
    """Two axes, and marks drawn over each other in the order of the calls.

    Args:
        x: The horizontal axis.
        y: The vertical axis.
    """

    def __init__(self, x: Axis, y: Axis) -> None:
        self._x, self._y = x, y
        self._marks: list[Markup] = []

    def bars(
        self,
        edges: Values,
        lows: Values,
        highs: Values,
        *,
        kind: str,
        hints: Sequence[str],
    ) -> None:
        """Draws bars that touch.

        Args:
            edges: [n + 1] of the bars along x.
            lows: [n], where each starts along y.
            highs: [n], where each ends.
            kind: Class of the bars.
            hints: [n], what the pointer is told over each.
        """
        for left, right, low, high, hint in zip(
            edges[:-1], edges[1:], lows, highs, hints, strict=True
        ):
            x, y = self._at(left, high)
            corner_x, corner_y = self._at(right, low)
            self._marks.append(
                Markup(
                    '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">'
                    "<title>{}</title></rect>"
                ).format(kind, x, y, max(corner_x - x - 0.8, 0), corner_y - y, hint)
            )

    def line(self, xs: Values, ys: Values, *, kind: str) -> None:
        """Draws a line through points."""
        self._marks.append(
            Markup('<polyline class="line {}" points="{}"/>').format(kind, self._points(xs, ys))
        )

    def steps(self, edges: Values, heights: Values, *, kind: str) -> None:
        """Draws the outline of bars, [n + 1] edges and [n] heights."""
        self.line(np.repeat(edges, 2)[1:-1], np.repeat(heights, 2), kind=kind)

    def band(self, xs: Values, lows: Values, highs: Values, *, kind: str) -> None:
        """Fills what lies between two lines, [n] each."""
        outline = self._points([*xs, *reversed(xs)], [*lows, *reversed(highs)])
        self._marks.append(Markup('<polygon class="band {}" points="{}"/>').format(kind, outline))

    def rule(self, x: float, label: str) -> None:
        """Draws an upright line from end to end, its label at the top."""
        at, top = self._at(x, self._y.high)
        bottom = self._at(x, self._y.low)[1]
        anchor, shift = ("end", -4) if self._x.place(x) > 0.5 else ("start", 4)
        self._marks.append(
            Markup(
                '<line class="rule" x1="{0:.1f}" x2="{0:.1f}" y1="{1:.1f}" y2="{2:.1f}"/>'
                '<text class="mark" x="{3:.1f}" y="{4:.1f}" text-anchor="{5}">{6}</text>'
            ).format(at, top - 12, bottom, at + shift, top - 5, anchor, label)
        )

    def cross(
        self, x: tuple[float, float, float], y: tuple[float, float, float], label: str
    ) -> None:
        """Draws a point with its intervals along both axes, each (value, low, high)."""
        at_x, at_y = self._at(x[0], y[0])
        left, right = (self._at(end, y[0])[0] for end in x[1:])
        bottom, top = (self._at(x[0], end)[1] for end in y[1:])
        self._marks.append(
            Markup(
                '<path class="whisker" d="M{left:.1f} {y:.1f}H{right:.1f}M{x:.1f} {bottom:.1f}V'
                "{top:.1f}M{left:.1f} {up:.1f}V{down:.1f}M{right:.1f} {up:.1f}V{down:.1f}"
                'M{before:.1f} {bottom:.1f}H{behind:.1f}M{before:.1f} {top:.1f}H{behind:.1f}"/>'
                '<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="4.5"><title>{label}</title>'
                "</circle>"
            ).format(
                left=left,
                right=right,
                x=at_x,
                y=at_y,
                bottom=bottom,
                top=top,
                up=at_y - _CAP,
                down=at_y + _CAP,
                before=at_x - _CAP,
                behind=at_x + _CAP,
                label=label,
            )
        )

    def svg(self, description: str) -> Markup:
        """Returns the chart.

        Args:
            description: What it says, for those who cannot see it.
        """
        return Markup(
            '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}{}</svg>'
        ).format(
            _WIDTH, _HEIGHT, description, self._grid(), Markup("").join(self._marks), self._titles()
        )

    def _at(self, x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + self._x.place(x) * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - self._y.place(y) * (_HEIGHT - _TOP - _BOTTOM),
        )

    def _points(self, xs: Iterable[float], ys: Iterable[float]) -> str:
        places = (self._at(x, y) for x, y in zip(xs, ys, strict=True))
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)

    def _grid(self) -> Markup:
        right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        lines = Markup("").join(
            Markup(
                '<line class="grid" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/>'
                '<text x="{3}" y="{4:.1f}" text-anchor="end">{5}</text>'
            ).format(_LEFT, right, y, _LEFT - 6, y + 4, self._y.label(tick))
            for tick in self._y.ticks()
            for y in [self._at(self._x.low, tick)[1]]
        )
        labels = Markup("").join(
            Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
                self._at(tick, self._y.low)[0], bottom + 16, self._x.label(tick)
            )
            for tick in self._x.ticks()
        )
        axis = Markup('<line class="axis" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>')
        return lines + labels + axis.format(_LEFT, right, bottom)

    def _titles(self) -> Markup:
        return Markup(
            '<text class="title" x="{}" y="{}" text-anchor="end">{}</text>'
            '<text class="title" x="2" y="11">{}</text>'
        ).format(_WIDTH - _RIGHT, _HEIGHT - 6, self._x.title, self._y.title)
