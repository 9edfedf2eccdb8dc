"""Reads tars with the package webdataset, which leaves closing its files to the collector."""

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import webdataset


@contextmanager
def files_left_open() -> Iterator[None]:
    """Lets the collector close files without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


def read_tars(folder: Path) -> list[dict[str, Any]]:
    """Reads the samples of all tars in a folder, undecoded."""
    tars = [str(path) for path in sorted(folder.glob("*.tar"))]
    with files_left_open():
        return list(webdataset.WebDataset(tars, shardshuffle=False))
