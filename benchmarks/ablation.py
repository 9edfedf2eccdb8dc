"""What each part of nccleaner is worth: the base less each part, at 40 % noise (METHOD 5).

The base are the defaults, or what --preset, --config and --set make of them. A variant that changes
nothing of the base is left out; one that was measured is not run again.

    python benchmarks/ablation.py --quick
    python benchmarks/ablation.py --set train.image_reconstruction=1 --variants base,one-network

Reads $NCC_DATA, by default ../shared/data beside the repository. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev

from arguments import listed, new_parser, open_source, options, size
from flickr8k import TrainingPlan
from measuring import PRODUCT, Configuration
from records import Record, Results, write_csv
from tables import markdown, summary

from nccleaner.config import RunConfig
from nccleaner.files import replace_file
from nccleaner_cli.settings import build_config

BASE = "base"
RATIO = 0.4

# What each variant sets over the base; the last one takes seconds a step on a CPU.
VARIANTS: dict[str, tuple[str, ...]] = {
    BASE: (),
    "no-modality-loss": ("train.modality=0",),
    "no-specific-loss": ("train.specific=0",),
    "no-image-reconstruction": ("train.image_reconstruction=0",),
    "no-caption-reconstruction": ("train.caption_reconstruction=0",),
    "caption-reconstruction": ("train.caption_reconstruction=1",),
    "meta-gradient-direct": ("train.meta_gradient=direct",),
    "meta-gradient-finite-difference": ("train.meta_gradient=finite_difference",),
    "meta-gradient-exact": ("train.meta_gradient=exact",),
    "no-meta-update": ("train.meta_gradient=none",),
    "no-purification": ("purify.belief=full",),
    "purification-from-trusted": ("purify.belief=trusted",),
    "prior-init": ("purify.prior=init",),
    "prior-anchor": ("purify.prior=anchor",),
    "one-network": ("train.networks=1",),
    "no-hard-mismatched": ("train.hard_mismatched=false",),
    "fixed-margin": ("train.adaptive_margin=false",),
    "no-hinge": ("train.hinge=0",),
    "hinge": ("train.hinge=1",),
    "hinge-alone": ("train.hinge=1", "train.info_nce=0"),
    "image-reconstruction": ("train.image_reconstruction=1",),
}

# Columns of the table: heading, figure of a record, how it is written.
COLUMNS = (
    ("AUROC", "auroc", ".4f"),
    ("F1", "f1", ".3f"),
    ("calibration error", "calibration_error", ".3f"),
    ("rSum", "rsum", ".1f"),
    ("training s", "training_s", ".0f"),
)
# Of these the difference to the base is shown too.
COMPARED = ("auroc", "rsum")


def main() -> None:
    """Measures what the arguments ask for and is not measured yet."""
    arguments = parse_arguments()
    configs = {
        name: build_config(arguments.preset, arguments.config, merged(arguments.set, over), {})
        for name, over in VARIANTS.items()
        if name in (BASE, *arguments.variants)
    }
    chosen = [name for name, config in configs.items() if name == BASE or config != configs[BASE]]
    source = open_source(arguments, most_demanding([configs[name] for name in chosen]))
    results = Results(source.work / "ablation")
    for seed in arguments.seed:
        plan = TrainingPlan(
            images=size(arguments).images,
            captions=arguments.captions,
            trusted=size(arguments).trusted,
            kind="random",
            ratio=RATIO,
            seed=seed,
        )
        folder = " ".join([plan.name, *arguments.set])
        for name in chosen:
            if results.has(folder, name):
                continue
            words = options(arguments, merged(arguments.set, VARIANTS[name]))
            record = Configuration(source, plan, words).measure(PRODUCT)
            settings = " ".join(arguments.set)
            row = {**asdict(plan), "settings": settings, "variant": name, **record}
            results.add(folder, name, row)
            write_results(results, source.work)
    print(write_results(results, source.work))


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = new_parser(__doc__ or "")
    add = parser.add_argument
    add("--captions", type=int, default=1, metavar="N", help="an image (1)")
    add("--seed", type=listed(int), default=[0, 1, 2], metavar="S,...", help="(0,1,2)")
    add(
        "--variants",
        type=listed(str),
        default=list(VARIANTS),
        metavar="V,...",
        help=f"beside base; of {', '.join(VARIANTS)} (all)",
    )
    arguments = parser.parse_args()
    unknown = set(arguments.variants) - VARIANTS.keys()
    if unknown:
        parser.error(f"no such variants: {', '.join(sorted(unknown))}")
    return arguments


def merged(settings: Sequence[str], over: Sequence[str]) -> list[str]:
    """Settings `NAME=VALUE` with others over them: `fit` takes each name once."""
    return list({setting.partition("=")[0]: setting for setting in (*settings, *over)}.values())


def most_demanding(configs: Sequence[RunConfig]) -> RunConfig:
    """The configuration whose features serve all: one that rebuilds images, if one does."""
    return max(configs, key=lambda config: config.train.image_reconstruction > 0)


def write_results(results: Results, work: Path) -> str:
    """Writes `ablation.csv` and `ablation.md`; returns the tables."""
    records = results.all()
    write_csv(records, work / "ablation.csv")
    text = tables(records)
    with replace_file(work / "ablation.md") as path:
        path.write_text(text + "\n", encoding="utf-8")
    return text


def tables(records: Sequence[Record]) -> str:
    """A table for each base and size."""
    keys = ("images", "captions", "trusted", "settings")
    protocols = sorted({tuple(record[key] for key in keys) for record in records})
    parts = []
    for protocol in protocols:
        mine = [record for record in records if tuple(record[key] for key in keys) == protocol]
        images, captions, trusted, settings = protocol
        title = f"{images:,} images, {captions} of their captions, {trusted} trusted pairs"
        parts.append(f"{title}{settings and f', {settings}'}\n\n{table(mine)}")
    return "\n\n".join(parts)


def table(records: Sequence[Record]) -> str:
    """A row a variant: mean and deviation over seeds, and what it differs by, seed by seed."""
    heading = ["variant", "seeds"]
    for title, name, _ in COLUMNS:
        heading += [title, "less base"] if name in COMPARED else [title]
    base = {record["seed"]: record for record in records if record["variant"] == BASE}
    rows = []
    for variant in VARIANTS:
        mine = [record for record in records if record["variant"] == variant]
        if not mine:
            continue
        row = [variant, str(len(mine))]
        for _, name, spec in COLUMNS:
            row.append(summary(mine, name, spec))
            if name in COMPARED:
                row.append(difference(mine, base, name, spec))
        rows.append(row)
    return markdown(heading, rows)


def difference(records: Sequence[Record], base: dict[int, Record], name: str, spec: str) -> str:
    """Mean and deviation of a figure less the base's at the same seed; a dash for the base."""
    values = [
        record[name] - base[record["seed"]][name]
        for record in records
        if record["variant"] != BASE and record["seed"] in base
    ]
    if not values:
        return "-"
    mean = format(fmean(values), f"+{spec}")
    return mean if len(values) == 1 else f"{mean} ± {format(stdev(values), spec)}"


if __name__ == "__main__":
    main()
