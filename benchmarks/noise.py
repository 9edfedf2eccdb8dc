"""How well mismatched captions are found, and what training among them costs (METHOD 5).

For each configuration: makes noisy Flickr8k shards, lets nccleaner (by its command line, as a user
would) and the baselines judge them, compares each with the truth, and keeps the figures. Draws
tables and figures from all that the work folder holds. A method that was measured in a
configuration is not run there again; remove its file in DIR/results/ for that.

    python benchmarks/noise.py --quick --captions 1
    python benchmarks/noise.py --ratio 0,0.2,0.4,0.6,0.8 --seed 0,1,2
    python benchmarks/noise.py --captions 1 --trusted 50,150,600,2000 --methods nccleaner

Reads $NCC_DATA, by default ../shared/data beside the repository. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from arguments import listed, new_parser, open_source, options, size
from baselines.methods import BASELINES
from figures import draw_ratios, draw_trusted
from flickr8k import TrainingPlan
from measuring import METHODS, PRODUCT, Configuration
from records import Record, Results, write_csv
from tables import figures, markdown, summary

from nccleaner.files import replace_file
from nccleaner_cli.settings import build_config


class Figure(NamedTuple):
    """A figure that a table compares methods by.

    Attributes:
        title: Of the table.
        name: Of the figure in a record.
        spec: How it is written.
        better: 1 where more is better, −1 where less is, 0 where neither: nobody is ahead then.
    """

    title: str
    name: str
    spec: str
    better: int


FIGURES = (
    Figure("Detection: AUROC", "auroc", ".3f", 1),
    Figure("Detection: AUPRC", "auprc", ".3f", 1),
    Figure("Detection: F1 at the automatic cut-off", "f1", ".3f", 1),
    Figure("Detection: F1 at the best cut-off", "best_f1", ".3f", 1),
    Figure("Expected calibration error", "calibration_error", ".3f", -1),
    Figure("Estimated less true noise rate", "noise_error", "+.3f", 0),
    Figure("Share of the pairs that the automatic cut-off drops", "dropped", ".3f", 0),
    Figure("Retrieval on clean validation pairs: rSum", "rsum", ".1f", 1),
    Figure("Seconds, features at hand", "seconds", ".0f", 0),
)


def main() -> None:
    """Measures what the arguments ask for and is not measured yet."""
    arguments = parse_arguments()
    config = build_config(arguments.preset, arguments.config, arguments.set, {})
    source = open_source(arguments, config)
    results = Results(source.work / "results")
    words = options(arguments, arguments.set)
    for plan in plans(arguments):
        configuration = Configuration(source, plan, words)
        for method in arguments.methods:
            # With the settings that were given, which all methods share.
            name = " ".join([method, *(word.partition("=")[2] for word in words)])
            if results.has(plan.name, name):
                continue
            record = configuration.measure(method)
            results.add(plan.name, name, {**asdict(plan), "method": name, **record})
            # After each: what is measured is not lost with what comes after it.
            write_results(results, source.work)
        if not arguments.keep:
            configuration.remove()
    print(write_results(results, source.work))


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = new_parser(__doc__ or "")
    add = parser.add_argument
    add("--captions", type=listed(int), default=[5, 1], metavar="N,...", help="an image (5,1)")
    add("--ratio", type=listed(float), default=[0.4], metavar="R,...", help="of the noise (0.4)")
    add(
        "--kind",
        type=listed(str),
        default=["random"],
        metavar="K,...",
        help="random, block or similar (random)",
    )
    add("--trusted", type=listed(int), metavar="N,...", help="pairs (600; 150 with --quick)")
    add("--seed", type=listed(int), default=[0], metavar="S,...", help="of noise and fit (0)")
    add(
        "--methods",
        type=listed(str),
        default=list(METHODS),
        metavar="M,...",
        help=f"of {', '.join(METHODS)} (all)",
    )
    add("--keep", action="store_true", help="keep shards and runs when they are measured")
    arguments = parser.parse_args()
    unknown = set(arguments.methods) - set(METHODS)
    if unknown:
        parser.error(f"no such methods: {', '.join(sorted(unknown))}")
    return arguments


def plans(arguments: argparse.Namespace) -> list[TrainingPlan]:
    """Every combination of what the arguments list."""
    return [
        TrainingPlan(
            images=size(arguments).images,
            captions=captions,
            trusted=trusted,
            kind=kind,
            ratio=ratio,
            seed=seed,
        )
        for captions, kind, ratio, trusted, seed in itertools.product(
            arguments.captions,
            arguments.kind,
            arguments.ratio,
            arguments.trusted or [size(arguments).trusted],
            arguments.seed,
        )
    ]


def write_results(results: Results, work: Path) -> str:
    """Writes CSV, tables and figures of all that was measured; returns the tables."""
    records = results.all()
    write_csv(records, work / "noise.csv")
    text = tables(records)
    with replace_file(work / "noise.md") as path:
        path.write_text(text + "\n", encoding="utf-8")
    draw_ratios(records, work / "noise.png")
    draw_trusted(records, work / "trusted.png")
    return text


def tables(records: Sequence[Record]) -> str:
    """All tables in Markdown: a row a configuration, a column a method, mean ± deviation."""
    return "\n\n".join(f"{figure.title}\n\n{table(figure, records)}" for figure in FIGURES)


def table(figure: Figure, records: Sequence[Record]) -> str:
    """One figure of all methods in all configurations, and how far nccleaner is ahead."""
    cells = ("images", "captions", "kind", "ratio", "trusted")
    methods = [name for name in in_order(records) if any_has(records, name, figure.name)]
    heading = [*cells, "seeds", *methods, *(["ahead"] if figure.better else [])]
    rows = []
    for values in sorted({tuple(record[name] for name in cells) for record in records}):
        mine = [record for record in records if tuple(record[name] for name in cells) == values]
        by_method = {
            method: [record for record in mine if record["method"] == method] for method in methods
        }
        row = [*map(str, values), str(len({record["seed"] for record in mine}))]
        row += [summary(by_method[method], figure.name, figure.spec) for method in methods]
        rows.append(row + ([ahead(figure, by_method)] if figure.better else []))
    return markdown(heading, rows)


def ahead(figure: Figure, by_method: dict[str, list[Record]]) -> str:
    """By how much nccleaner is better than the best baseline, in the mean over its seeds."""
    means = {
        method: sum(values) / len(values)
        for method, records in by_method.items()
        if (values := figures(records, figure.name))
    }
    rivals = [means[method] for method in BASELINES if method in means]
    if PRODUCT not in means or not rivals:
        return "-"
    best = max(rivals, key=lambda value: figure.better * value)
    return format(figure.better * (means[PRODUCT] - best), f"+{figure.spec.lstrip('+')}")


def in_order(records: Sequence[Record]) -> list[str]:
    """The methods that were measured, in the order of `METHODS`, variants after their method."""
    found = {record["method"] for record in records}
    return sorted(found, key=lambda name: (METHODS.index(name.split(" ")[0]), name))


def any_has(records: Sequence[Record], method: str, name: str) -> bool:
    """Tells whether a method gives a figure at all."""
    return bool(figures([record for record in records if record["method"] == method], name))


if __name__ == "__main__":
    main()
