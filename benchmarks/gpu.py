"""How fast each stage is on this machine, and a fit on noisy Flickr8k; `gpu.sh` calls it.

Needs no FAISS: nothing is purged, so `clean_probability` > 0.5 says what is kept.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from arguments import Size, find_flickr8k, listed, new_parser, size
from extracting import Extracting
from flickr8k import TrainingPlan, build_training, build_validation
from steps import Steps
from tables import markdown

from nccleaner.config import RunConfig
from nccleaner.data.locations import find_shards
from nccleaner.pipeline.backbones import resolve_device
from nccleaner.pipeline.evaluate import evaluate
from nccleaner.pipeline.fit import fit
from nccleaner.pipeline.reporter import SilentReporter
from nccleaner.pipeline.score import score
from nccleaner_cli.settings import build_config

RATIO = 0.4
ROUNDS = 2

# What was measured, and its figure.
Row = tuple[str, str]


class Stopwatch(SilentReporter):
    """Keeps when each stage of a command made progress, by the first word of its title."""

    def __init__(self) -> None:
        self.ticks: dict[str, list[tuple[float, int]]] = {}

    @contextmanager
    def stage(
        self,
        title: str,
        total: int | None,  # noqa: ARG002
        unit: str,  # noqa: ARG002
    ) -> Iterator[Callable[[int], None]]:
        """Times a stage."""
        ticks = self.ticks[title.split(maxsplit=1)[0]] = [(time.monotonic(), 0)]
        yield lambda count: ticks.append((time.monotonic(), count))
        ticks.append((time.monotonic(), 0))

    def rate(self, name: str) -> float:
        """Units a second of a stage."""
        ticks = self.ticks[name]
        return sum(count for _, count in ticks[1:]) / (ticks[-1][0] - ticks[0][0])


def main() -> None:
    """Measures everything and prints the table."""
    start = time.monotonic()
    arguments = parse_arguments()
    config = build_config(arguments.preset, arguments.config, arguments.set, {})
    rows: list[Row] = [("GPU tests", arguments.tests)]
    with TemporaryDirectory() as temporary:
        work = Path(temporary)
        validation = build_validation(
            find_flickr8k(), work, images=size(arguments).validation_images
        )
        for captions in arguments.captions or ([1] if arguments.quick else [1, 5]):
            training = _build(work, size(arguments), captions)
            run = work / f"run-{captions}"
            if len(rows) == 1:
                rows += time_stages(training / "shards", work, config)
            rows += measure_fit(training, validation / "shards", run, config, captions)
    rows.append(("everything, s", f"{time.monotonic() - start:.0f}"))
    print(markdown(("what", "figure"), rows))


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = new_parser(__doc__ or "")
    add = parser.add_argument
    add("--captions", type=listed(int), metavar="N,...", help="an image (1,5; 1 with --quick)")
    add("--tests", default="not run", help="what became of the tests, for the table")
    return parser.parse_args()


def time_stages(shards: Path, work: Path, config: RunConfig) -> list[Row]:
    """Times extraction, and training steps, beside their limits."""
    extracting = Extracting("Flickr8k", find_shards(shards), config, work)
    steps = Steps(config, resolve_device(config.encoders.device))
    rows = [*extracting.rows(rounds=ROUNDS, memory=False), *steps.rows(rounds=ROUNDS)]
    cells = [row.cells() for row in rows]
    return [
        (f"{stage} (limit: {limit})", f"{rate}, {share}")
        for stage, rate, limit, _, share, _ in cells
    ]


def measure_fit(
    training: Path, validation: Path, run: Path, config: RunConfig, captions: int
) -> list[Row]:
    """Fits by the full schedule, scores, and compares with the truth."""
    start = time.monotonic()
    watch = _fit(training, run, config)
    seconds = time.monotonic() - start
    scoring = Stopwatch()
    score(run, reporter=scoring)
    found = evaluate(run, validation, truth=training / "truth.csv")
    detection, retrieval = found.detection, found.retrieval
    assert detection is not None
    assert retrieval is not None
    figures = {
        "fit, s": f"{seconds:.0f}",
        "training, steps/s": f"{watch.rate('Training'):.0f}",
        "scoring, pairs/s": f"{scoring.rate('Scoring'):.0f}",
        "AUROC": _text(detection.auroc, ".4f"),
        "F1": _text(detection.f1, ".3f"),
        "calibration error": f"{detection.calibration_error:.3f}",
        "rSum": f"{retrieval.rsum:.1f}",
    }
    return [(f"captions an image: {captions}; {name}", text) for name, text in figures.items()]


def _build(work: Path, asked: Size, captions: int) -> Path:
    plan = TrainingPlan(
        images=asked.images,
        captions=captions,
        trusted=asked.trusted,
        kind="random",
        ratio=RATIO,
        seed=0,
    )
    return build_training(find_flickr8k(), work, plan)


def _fit(training: Path, run: Path, config: RunConfig) -> Stopwatch:
    watch = Stopwatch()
    trusted = training / "trusted.csv"
    fit(training / "shards", meta=trusted, run=run, config=config, reporter=watch)
    return watch


def _text(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)


if __name__ == "__main__":
    main()
