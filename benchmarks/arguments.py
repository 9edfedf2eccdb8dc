"""The command line that the benchmarks on Flickr8k share."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from encoded import SharedFeatures
from flickr8k import TRAIN_IMAGES, VALIDATION_IMAGES
from measuring import Source

from nccleaner.config import RunConfig

T = TypeVar("T")

HERE = Path(__file__).resolve().parent


class Size(NamedTuple):
    """How large a benchmark is.

    Attributes:
        images: To train on.
        trusted: Pairs, unless it is said otherwise.
        validation_images: To measure retrieval on.
    """

    images: int
    trusted: int
    validation_images: int


FULL = Size(TRAIN_IMAGES, 600, VALIDATION_IMAGES)
QUICK = Size(1_000, 150, 200)


def new_parser(documentation: str) -> argparse.ArgumentParser:
    """Returns a parser with the arguments that all benchmarks on Flickr8k share."""
    title, _, rest = documentation.partition("\n")
    parser = argparse.ArgumentParser(
        description=title, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="1,000 images to train on, not 6,000")
    add(
        "--work",
        type=Path,
        default=HERE / "results",
        metavar="DIR",
        help="for shards, runs and results (benchmarks/results)",
    )
    add("--preset", metavar="NAME", help="handed on to fit")
    add("--config", type=Path, metavar="FILE", help="handed on to fit")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="handed on to fit")
    return parser


def size(arguments: argparse.Namespace) -> Size:
    """How large the benchmark is to be."""
    return QUICK if arguments.quick else FULL


def find_flickr8k() -> Path:
    """The folder of the data, or an exit that says how to name it."""
    folder = Path(os.environ.get("NCC_DATA", HERE.parents[1] / "shared" / "data")) / "flickr8k"
    if not folder.is_dir():
        sys.exit(f"{folder} is not there. Set NCC_DATA to the folder that holds flickr8k/.")
    return folder


def open_source(arguments: argparse.Namespace, config: RunConfig) -> Source:
    """Opens the data that all configurations share.

    Args:
        arguments: As parsed.
        config: What features are made with.
    """
    work: Path = arguments.work
    features = SharedFeatures(work / "encoded", config)
    return Source(find_flickr8k(), work, size(arguments).validation_images, features)


def options(arguments: argparse.Namespace, settings: Sequence[str]) -> list[str]:
    """Words for `fit`: the preset and file that were given, and settings `NAME=VALUE`."""
    named = {"--preset": arguments.preset, "--config": arguments.config}
    words = [f"{name}={value}" for name, value in named.items() if value is not None]
    return words + [f"--set={setting}" for setting in settings]


def listed(convert: Callable[[str], T]) -> Callable[[str], list[T]]:
    """The type of an argument that takes values with commas between them."""
    return lambda text: [convert(value) for value in text.split(",")]
