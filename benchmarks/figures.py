"""Figures of the noise benchmark: lines of the mean over seeds, bars of the deviation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from records import Record
from tables import figures

from nccleaner.files import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# What is drawn, by the name of the figure in a record and of its axis.
_AGAINST_RATIO = {"auroc": "AUROC", "f1": "F1, automatic cut-off", "rsum": "rSum"}
_AGAINST_TRUSTED = {"auroc": "AUROC", "f1": "F1, automatic cut-off"}
_DOTS_PER_INCH = 90


def draw_ratios(records: Sequence[Record], path: Path) -> None:
    """Draws detection and retrieval against the noise ratio, a row of panels a protocol.

    Only the number of trusted pairs that most records have is drawn. Nothing is written where no
    protocol has two ratios.
    """
    usual = _most_common(records, "trusted")
    chosen = [record for record in records if record["trusted"] == usual]
    _draw(chosen, path, against="ratio", label="noise ratio", drawn=_AGAINST_RATIO)


def draw_trusted(records: Sequence[Record], path: Path) -> None:
    """Draws detection against the number of trusted pairs, at the ratio that most records have."""
    usual = _most_common(records, "ratio")
    chosen = [record for record in records if record["ratio"] == usual]
    _draw(chosen, path, against="trusted", label="trusted pairs", drawn=_AGAINST_TRUSTED)


def _draw(
    records: Sequence[Record], path: Path, *, against: str, label: str, drawn: dict[str, str]
) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    protocols = [
        protocol
        for protocol in sorted({_protocol(record) for record in records})
        if len({record[against] for record in records if _protocol(record) == protocol}) > 1
    ]
    if not protocols:
        return
    methods = sorted({record["method"] for record in records})
    colours = {method: f"C{index}" for index, method in enumerate(methods)}
    with mpl.rc_context({"font.size": 8, "axes.grid": True, "grid.alpha": 0.3}):
        figure = Figure(figsize=(3.2 * len(drawn), 2.4 * len(protocols)), layout="constrained")
        panels = figure.subplots(len(protocols), len(drawn), squeeze=False)
        for row, protocol in zip(panels, protocols, strict=True):
            mine = [record for record in records if _protocol(record) == protocol]
            for panel, (name, title) in zip(row, drawn.items(), strict=True):
                _panel(panel, mine, against=against, name=name, colours=colours)
                panel.set(xlabel=label, ylabel=title)
                panel.set_title(_describe(protocol), fontsize="medium")
        if against == "trusted":
            for panel in panels.flat:
                panel.set_xscale("log")
        shown = {
            label: handle
            for panel in panels.flat
            for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
        }
        figure.legend(shown.values(), shown.keys(), loc="outside right upper")
        with replace_file(path) as new:
            figure.savefig(new, dpi=_DOTS_PER_INCH, format="png", metadata={"Software": None})


def _panel(
    panel: Axes,
    records: Sequence[Record],
    *,
    against: str,
    name: str,
    colours: Mapping[str, str],
) -> None:
    for method, colour in colours.items():
        mine = [record for record in records if record["method"] == method]
        points = []
        for place in sorted({record[against] for record in mine}):
            values = figures([record for record in mine if record[against] == place], name)
            if values:
                points.append((place, fmean(values), stdev(values) if len(values) > 1 else 0.0))
        if points:
            places, means, deviations = zip(*points, strict=True)
            width = 2.2 if method == "nccleaner" else 1.0
            panel.errorbar(
                places,
                means,
                deviations,
                label=method,
                color=colour,
                linewidth=width,
                marker=".",
                capsize=2,
            )


def _protocol(record: Record) -> tuple[int, int, str]:
    return record["images"], record["captions"], record["kind"]


def _describe(protocol: tuple[int, int, str]) -> str:
    images, captions, kind = protocol
    return f"{images:,} images, {captions} caption{'s' * (captions > 1)}, {kind}"


def _most_common(records: Sequence[Record], name: str) -> object:
    values = [record[name] for record in records]
    return max(set(values), key=values.count, default=None)
