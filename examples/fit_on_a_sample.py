"""Fits on a few shards of many, then scores and purges all of them.

    python examples/fit_on_a_sample.py shards/ trusted.csv --fit-on 10

Training needs some tens of thousands of pairs, not all there are. The shards to fit on are drawn by
lot and printed first; the trusted pairs must come from them, others are reported as rows that name
no pair. What was fitted on is purged into the run directory, the other shards into a folder of
their own. Pairs of the training pool have another judge than those that the networks never saw;
the column `fitted` of the scores says which.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import nccleaner
from nccleaner.data.locations import find_shards
from nccleaner.errors import NccleanerError


def main() -> None:
    """Reads the arguments, does the work."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("shards", help="a folder, glob or brace pattern")
    parser.add_argument("trusted", type=Path, help="trusted pairs of the shards that are fitted on")
    parser.add_argument("--fit-on", type=int, default=10, help="how many shards; default 10")
    parser.add_argument("--run", type=Path, default=Path("nccleaner-run"))
    parser.add_argument("--rest", type=Path, default=Path("nccleaner-rest"))
    arguments = parser.parse_args()
    fit_on_a_sample(**vars(arguments))


def fit_on_a_sample(
    shards: str,
    trusted: Path,
    *,
    fit_on: int,
    run: Path,
    rest: Path,
    config: nccleaner.RunConfig | None = None,
) -> None:
    """Fits on `fit_on` of the shards, purges them into `run` and all others into `rest`."""
    urls = [shard.url for shard in find_shards(shards)]
    if fit_on >= len(urls):
        sys.exit(f"There are {len(urls)} shards: with --fit-on {fit_on} none is left to score.")
    sample = sorted(random.Random(0).sample(urls, fit_on))  # noqa: S311 - no secret
    others = [url for url in urls if url not in sample]
    print("Fitting on:", *sample, sep="\n  ")

    fitted = nccleaner.fit(sample, meta=trusted, run=run, config=config)
    print(f"Trained on {fitted.pool:,} pairs, by {sum(fitted.trusted.values())} trusted ones.")
    print(f"Rows of {trusted} that name none of them: {len(fitted.trusted_problems)}")
    print(f"Mismatched: about {fitted.noise_rate:.0%}")

    nccleaner.score(run, others, output=rest)
    for output in (None, rest):
        purged = nccleaner.purge(run, output=output)
        print(f"Kept {purged.summary.kept:,} of {purged.summary.samples:,}: {purged.folder}")


if __name__ == "__main__":
    try:
        main()
    except NccleanerError as error:
        sys.exit(str(error))
