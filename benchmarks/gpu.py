"""How fast each stage is on this machine, and a fit on noisy Flickr8k; `gpu.sh` calls it.

Needs no FAISS: nothing is purged, so `clean_probability` > 0.5 says what is kept.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from arguments import Size, find_flickr8k, listed, new_parser, size
from flickr8k import TrainingPlan, build_training, build_validation
from tables import markdown

from nccleaner.config import RunConfig, overlay
from nccleaner.data.decoding import DecodePool
from nccleaner.data.locations import find_shards
from nccleaner.data.reading import ShardReading
from nccleaner.pipeline.backbones import Backbones, limits_of
from nccleaner.pipeline.evaluate import evaluate
from nccleaner.pipeline.fit import fit
from nccleaner.pipeline.reporter import SilentReporter
from nccleaner.pipeline.score import score
from nccleaner_cli.settings import build_config

RATIO = 0.4
GRADIENTS = ("none", "direct", "finite_difference", "exact")
ENCODED_BATCHES = 20

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

    def rate(self, name: str, *, since: float = 0.0) -> float:
        """Units a second of a stage, counted from a share of its ticks on."""
        ticks = self.ticks[name]
        ticks = ticks[int(since * len(ticks)) :]
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
                rows += time_extraction(training / "shards", config)
                rows += time_steps(training, run, config)
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


def time_extraction(shards: Path, config: RunConfig) -> list[Row]:
    """Times the two limits of extraction by themselves: decoding, and encoding ready pixels."""
    backbones = Backbones(config.encoders)
    spec, limits = backbones.image.spec, limits_of(config.data)
    images = [
        (None, sample.image)
        for shard in find_shards(shards)
        for sample in ShardReading(shard, limits=limits)
    ]
    with DecodePool(workers=_workers(config)) as pool:
        list(pool.decode(images[:64], spec=spec, limits=limits))  # processes start
        start = time.monotonic()
        done = sum(1 for _ in pool.decode(iter(images), spec=spec, limits=limits))
        decoded = done / (time.monotonic() - start)
    batch = np.zeros((config.encoders.batch_size, spec.size_px, spec.size_px, 3), np.uint8)
    backbones.image.encode(batch)
    start = time.monotonic()
    for _ in range(ENCODED_BATCHES):
        backbones.image.encode(batch)
    encoded = ENCODED_BATCHES * len(batch) / (time.monotonic() - start)
    return [
        ("decoding alone, images/s", f"{decoded:.0f}"),
        ("image encoder alone, images/s", f"{encoded:.0f}"),
    ]


def time_steps(training: Path, run: Path, config: RunConfig) -> list[Row]:
    """Times extraction, then a training step after warm-up with each way to the meta gradient."""
    rows: list[Row] = []
    for gradient in GRADIENTS:
        settings = {"meta_gradient": gradient, "epochs": 2, "min_steps": 0}
        watch = _fit(training, run, with_training(config, settings))
        if "Extracting" in watch.ticks:
            rows.append(("extraction, samples/s", f"{watch.rate('Extracting'):.0f}"))
        step_ms = 1000 / watch.rate("Training", since=0.5)
        rows.append((f"training step, meta gradient {gradient}, ms", f"{step_ms:.1f}"))
    return rows


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


def with_training(config: RunConfig, settings: Mapping[str, object]) -> RunConfig:
    """A configuration with other settings of training."""
    return RunConfig.model_validate(overlay(config.model_dump(), {"train": settings}))


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


def _workers(config: RunConfig) -> int:
    return config.data.workers if config.data.workers >= 0 else os.cpu_count() or 1


def _text(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)


if __name__ == "__main__":
    main()
