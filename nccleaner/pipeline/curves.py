"""What `metrics.jsonl` says of training, as curves for the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nccleaner.errors import RunError
from nccleaner.output.report.figures import Curve, CurveChart

_LOSSES = {"main_loss": "main network", "meta_loss": "meta network"}
_RECONSTRUCTION = {
    "generator_loss": "generator",
    "discriminator_loss": "discriminators",
    "caption_loss": "captions",
}
_SHARES = {"selection": "AUROC, held-out pairs", "believed": "believed"}
_COLOURS = ("matched", "mismatched", "rejected")


def read_curves(metrics: Path, *, best_epoch: int) -> list[CurveChart]:
    """Reads the epochs of a training.

    Args:
        metrics: `metrics.jsonl`.
        best_epoch: The epoch whose networks score; epochs of fine-tuning count on.

    Returns:
        Charts of what there is; none where the file is missing.

    Raises:
        RunError: The file is damaged.
    """
    if not metrics.exists():
        return []
    try:
        lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
        trained = [line for line in lines if line["kind"] == "epoch"]
        tuned = [line for line in lines if line["kind"] == "fine_tune"]
        rebuilt = [{"epoch": line["epoch"], **line["reconstruction"]} for line in trained]
        tuned = [line | {"epoch": len(trained) + line["epoch"]} for line in tuned]
        charts = [
            _chart(title, names, lines, best_epoch)
            for title, names, lines in (
                ("Losses", _LOSSES, trained),
                ("Quality and belief", _SHARES, trained),
                ("Losses of the reconstruction", _RECONSTRUCTION, rebuilt),
                ("Loss while fine-tuning", _LOSSES, tuned),
                ("Quality while fine-tuning", _SHARES, tuned),
            )
        ]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RunError(f"{metrics} is damaged: {error}", "Run `nccleaner fit` again.") from error
    return [chart for chart in charts if chart.curves]


def _chart(
    title: str, names: Mapping[str, str], lines: Sequence[Mapping[str, Any]], best: int
) -> CurveChart:
    """A chart of those quantities that the lines tell of."""
    told = [name for name in names if lines and name in lines[0]]
    return CurveChart(
        title=title,
        axis="share" if names is _SHARES else "loss",
        epochs=[int(line["epoch"]) for line in lines],
        best=best,
        curves=[
            Curve(names[name], kind, [float(line[name]) for line in lines])
            for name, kind in zip(told, _COLOURS, strict=False)
        ],
    )
