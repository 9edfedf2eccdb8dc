"""Tables of a benchmark in Markdown, each cell the mean over seeds and, of several, the spread."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

from records import Record


def summary(records: Sequence[Record], name: str, spec: str) -> str:
    """Returns a figure's mean and standard deviation over records, as text; a dash where it is not.

    Args:
        records: Of several seeds.
        name: Of the figure.
        spec: How a number is written, as `format` takes it.
    """
    values = figures(records, name)
    if not values:
        return "-"
    mean = format(fmean(values), spec)
    return mean if len(values) == 1 else f"{mean} ± {format(stdev(values), spec.lstrip('+'))}"


def figures(records: Sequence[Record], name: str) -> list[float]:
    """Returns a figure of each record that has it."""
    found = (record.get(name) for record in records)
    return [float(value) for value in found if value is not None]


def markdown(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table, aligned so that it reads well in a terminal too."""
    cells = [list(heading), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    head, *lines = ("| " + " | ".join(map(str.rjust, row, widths)) + " |" for row in cells)
    rule = "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|"
    return "\n".join([head, rule, *lines])
