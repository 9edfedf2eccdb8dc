"""Writes a DataComp subset: the pairs that nccleaner keeps, or that another filter keeps too.

    python examples/datacomp_subset.py nccleaner-run 'shards/{00000000..00000009}.tar' subset.npy

A subset file is a sorted array of uids, so with `--and other.npy`, the subset file of another
filter, both filters at once are one `intersect1d`. The tars are
then gone through as DataComp's resharder goes through them, to count what it will take. The next
step is the resharder, from DataComp's repository:

    python resharder.py -i shards/ -o resharded/ -s subset.npy

Only tars with a `uid` in the JSON of their samples can be subset like this. Others are written out
by `nccleaner export`, or filtered as `examples/filter_webdataset.py` does.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import webdataset


def main() -> None:
    """Writes the subset, and counts what it takes of the tars."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="a run that was purged, or its --output folder")
    parser.add_argument("tars", help="its tars, as a brace pattern")
    parser.add_argument("subset", type=Path, help="the file to write")
    parser.add_argument("--and", dest="other", type=Path, help="the subset file of another filter")
    arguments = parser.parse_args()

    subset = np.load(arguments.run / "clean" / "uids.npy")
    if arguments.other:
        subset = np.intersect1d(subset, np.load(arguments.other))
    np.save(arguments.subset, subset)

    samples = list(map(uid_of, webdataset.WebDataset(arguments.tars, shardshuffle=False)))
    taken = sum(uid is not None and is_taken(subset, uid) for uid in samples)
    print(f"{len(subset):,} uids; the resharder takes {taken:,} of {len(samples):,} samples.")


def uid_of(sample: dict[str, bytes]) -> str | None:
    """The uid of a sample: 32 hex digits."""
    return json.loads(sample["json"]).get("uid")


def is_taken(subset: np.ndarray, uid: str) -> bool:
    """DataComp's rule: the two halves of the uid are looked up by bisection."""
    number = np.array([divmod(int(uid, 16), 2**64)], subset.dtype)[0]
    place = np.searchsorted(subset, number)
    return bool(place < len(subset) and subset[place] == number)


if __name__ == "__main__":
    main()
