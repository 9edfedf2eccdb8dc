"""How well mismatched captions are found, and what training among them costs (METHOD 5).

For each configuration: makes noisy Flickr8k shards, runs the command line on them as a user would
(`fit`, `purge`, `evaluate`), and prints and writes what it measured.

    python benchmarks/noise.py --quick --captions 1
    python benchmarks/noise.py --ratio 0.2,0.4,0.6 --seed 0,1,2

Reads $NCC_DATA, by default ../shared/data beside the repository. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from flickr8k import (
    TRAIN_IMAGES,
    VALIDATION_IMAGES,
    TrainingPlan,
    build_training,
    build_validation,
)

from nccleaner.files import replace_file

T = TypeVar("T")

HERE = Path(__file__).resolve().parent
QUICK_TRAIN_IMAGES, QUICK_TRUSTED = 1_000, 150
QUICK_VALIDATION_IMAGES = 200
TRUSTED = 600

# What a configuration gave, by the part it comes from and its name there.
Record = dict[str, dict[str, Any]]


class Column(NamedTuple):
    """A column of a table: its heading, the figure it shows, and how."""

    heading: str
    part: str
    name: str
    format: str


PLAN = (
    Column("captions", "plan", "captions", "d"),
    Column("noise", "plan", "kind", "s"),
    Column("ratio", "plan", "ratio", "g"),
    Column("seed", "plan", "seed", "d"),
)
TABLES = {
    "Mismatched captions among the training pairs that are not trusted": (
        *PLAN,
        Column("AUROC", "detection", "auroc", ".3f"),
        Column("AUPRC", "detection", "auprc", ".3f"),
        Column("F1", "detection", "f1", ".3f"),
        Column("best F1", "detection", "best_f1", ".3f"),
        Column("ECE", "detection", "calibration_error", ".3f"),
        Column("true rate", "noise_rate", "true", ".3f"),
        Column("estimated", "noise_rate", "estimated", ".3f"),
        Column("error", "noise_rate", "error", "+.3f"),
    ),
    "Retrieval on clean validation pairs, in percent, and the time of fit": (
        *PLAN,
        Column("i2t R@1", "retrieval", "image_to_text_r1", ".1f"),
        Column("R@5", "retrieval", "image_to_text_r5", ".1f"),
        Column("R@10", "retrieval", "image_to_text_r10", ".1f"),
        Column("t2i R@1", "retrieval", "text_to_image_r1", ".1f"),
        Column("R@5", "retrieval", "text_to_image_r5", ".1f"),
        Column("R@10", "retrieval", "text_to_image_r10", ".1f"),
        Column("rSum", "retrieval", "rsum", ".1f"),
        Column("fit s", "seconds", "fit", ".0f"),
        Column("training s", "seconds", "training", ".0f"),
    ),
}


def main() -> None:
    """Measures every configuration that the arguments ask for."""
    arguments = parse_arguments()
    flickr8k = Path(os.environ.get("NCC_DATA", HERE.parents[1] / "shared" / "data")) / "flickr8k"
    if not flickr8k.is_dir():
        sys.exit(f"{flickr8k} is not there. Set NCC_DATA to the folder that holds flickr8k/.")
    work: Path = arguments.work
    validation = build_validation(
        flickr8k, work, images=QUICK_VALIDATION_IMAGES if arguments.quick else VALIDATION_IMAGES
    )
    options = [f"--set={setting}" for setting in arguments.set]
    if arguments.config is not None:
        options.append(f"--config={arguments.config}")
    records = []
    for plan in plans(arguments):
        training = build_training(flickr8k, work, plan)
        records.append(measure(plan, training, validation, work / f"run-{plan.name}", options))
        # After each: what is measured is not lost with what comes after it.
        write_results(records, work, "noise-quick" if arguments.quick else "noise")
    print(tables(records))


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--captions", type=listed(int), default=[5, 1], metavar="N,...", help="an image (5,1)")
    add("--ratio", type=listed(float), default=[0.4], metavar="R,...", help="of the noise (0.4)")
    add("--kind", type=listed(str), default=["random"], metavar="K,...", help="random or block")
    add("--seed", type=listed(int), default=[0], metavar="S,...", help="of noise and fit (0)")
    add("--quick", action="store_true", help="1,000 images to train on, not 6,000")
    add(
        "--work",
        type=Path,
        default=HERE / "results",
        metavar="DIR",
        help="for shards, runs and results (benchmarks/results)",
    )
    add("--config", type=Path, metavar="FILE", help="handed on to fit")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="handed on to fit")
    return parser.parse_args()


def listed(convert: Callable[[str], T]) -> Callable[[str], list[T]]:
    """The type of an argument that takes values with commas between them."""
    return lambda text: [convert(value) for value in text.split(",")]


def plans(arguments: argparse.Namespace) -> list[TrainingPlan]:
    """Every combination of what the arguments list."""
    return [
        TrainingPlan(
            images=QUICK_TRAIN_IMAGES if arguments.quick else TRAIN_IMAGES,
            captions=captions,
            trusted=QUICK_TRUSTED if arguments.quick else TRUSTED,
            kind=kind,
            ratio=ratio,
            seed=seed,
        )
        for captions, kind, ratio, seed in itertools.product(
            arguments.captions, arguments.kind, arguments.ratio, arguments.seed
        )
    ]


def measure(
    plan: TrainingPlan, training: Path, validation: Path, run: Path, options: Sequence[str]
) -> Record:
    """Cleans the training shards in the run directory `run` and compares with the truth."""
    shards, trusted = training / "shards", training / "trusted.csv"
    seed = f"--seed={plan.seed}"
    fit = nccleaner("fit", shards, "--meta", trusted, "--run", run, seed, *options)
    summary = nccleaner("purge", "--run", run)["summary"]
    truth = training / "truth.csv"
    found = nccleaner("evaluate", validation / "shards", "--truth", truth, "--run", run)
    detection = found["detection"]
    # The estimate is of all pairs. The truth leaves out the trusted, none of which is mismatched.
    mismatched = detection["dropped_mismatched"] + detection["kept_mismatched"]
    true, estimated = mismatched / summary["samples"], summary["mismatched_before"]["value"]
    return {
        "plan": asdict(plan),
        "detection": detection,
        "noise_rate": {"true": true, "estimated": estimated, "error": estimated - true},
        "retrieval": found["retrieval"],
        "seconds": {"fit": fit["seconds"], "training": fit["training_s"]},
    }


def nccleaner(*arguments: str | Path) -> dict[str, Any]:
    """Runs a command, shows what it tells of itself, and returns its machine-readable last line."""
    words = [*map(str, arguments), "--json"]
    print("$", shlex.join(["nccleaner", *words]), file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "nccleaner_cli.main", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"nccleaner {words[0]} failed with exit code {done.returncode}.")
    last: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return last


def write_results(records: Sequence[Record], folder: Path, name: str) -> None:
    """Writes `NAME.csv`, all figures, a row a configuration, and `NAME.md`, the tables."""
    rows = [
        {
            f"{part}.{figure}": value
            for part, values in record.items()
            for figure, value in values.items()
        }
        for record in records
    ]
    with (
        replace_file(folder / f"{name}.csv") as path,
        path.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with replace_file(folder / f"{name}.md") as path:
        path.write_text(tables(records) + "\n", encoding="utf-8")


def tables(records: Sequence[Record]) -> str:
    """All tables in Markdown."""
    return "\n\n".join(f"{title}\n\n{table(columns, records)}" for title, columns in TABLES.items())


def table(columns: Sequence[Column], records: Sequence[Record]) -> str:
    """A table in Markdown, aligned so that it reads well in a terminal too."""
    rows = [[column.heading for column in columns]]
    rows += [
        [formatted(record[column.part][column.name], column.format) for column in columns]
        for record in records
    ]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    heading, *lines = ("| " + " | ".join(map(str.rjust, row, widths)) + " |" for row in rows)
    rule = "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|"
    return "\n".join([heading, rule, *lines])


def formatted(value: float | str | None, spec: str) -> str:
    """The value as text; a dash where there is none."""
    return "-" if value is None else format(value, spec)


if __name__ == "__main__":
    main()
