"""Says what a trusted file tells: how many pairs match, and how many of the shards do not.

    python examples/trusted_set/read.py trusted.csv

The share of mismatched pairs is that of the shards only if the pairs were drawn by lot and all of
them were judged, as on the page that `draw.py` writes. Its interval is exact (Clopper and Pearson
1934).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scipy.stats import binomtest

from nccleaner.data.trusted import read_trusted
from nccleaner.errors import NccleanerError


def main() -> None:
    """Reads the file and prints what it says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("trusted", type=Path, help="as for nccleaner fit --meta")
    table = read_trusted(parser.parse_args().trusted)
    for problem in table.problems:
        print(f"Row {problem.row}: {problem.reason}")
    mismatched = sum(row.label == 0 for row in table.rows)
    count = len(table.rows)
    if not count:
        sys.exit("No row names a pair.")
    share = binomtest(mismatched, count).proportion_ci(confidence_level=0.95, method="exact")
    print(f"{count} pairs: {count - mismatched} matched, {mismatched} mismatched.")
    print(
        f"Drawn by lot, they say that {mismatched / count:.1%} of the shards' pairs are mismatched "
        f"(95% interval {share.low:.1%} to {share.high:.1%})."
    )


if __name__ == "__main__":
    try:
        main()
    except NccleanerError as error:
        sys.exit(str(error))
