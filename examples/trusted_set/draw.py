"""Makes a trusted set from scratch: draws pairs by lot, and writes a page to judge them on.

    python examples/trusted_set/draw.py shards/ judge.html --count 300

reads the shards and writes one HTML file that needs no network. Open it in a browser and press 1
where the caption describes the image, 0 where it does not; it remembers what was pressed. Its
button saves `trusted.csv`:

    python examples/trusted_set/read.py trusted.csv        # says what it tells of the shards
    nccleaner fit shards/ --meta trusted.csv

Drawn again with another `--seed`, it serves `nccleaner purge --sample`.

All pairs of the shards named are read once, and have the same chance. Where there are too many to
read, name some shards, drawn by lot: pairs of one shard are often alike.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from nccleaner.config import RunConfig
from nccleaner.data.locations import find_shards
from nccleaner.data.reading import ShardReading
from nccleaner.errors import NccleanerError
from nccleaner.files import replace_file
from nccleaner.output.thumbnails import make_thumbnails
from nccleaner.pipeline.backbones import limits_of
from nccleaner.records import OK, Limits, Sample

PAGE = Path(__file__).with_name("page.html")
THUMBNAIL_PX = 320


def main() -> None:
    """Reads the arguments, draws, writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("shards", nargs="+", help="as for nccleaner fit")
    parser.add_argument("page", type=Path, help="the HTML file to write")
    parser.add_argument("--count", type=int, default=300, help="pairs to judge; default 300")
    parser.add_argument("--seed", type=int, default=0, help="of the lot")
    arguments = parser.parse_args()

    limits = limits_of(RunConfig().data)
    drawn, pairs = draw(
        read_pairs(arguments.shards, limits), count=arguments.count, seed=arguments.seed
    )
    cards = make_cards(drawn, limits)
    if not cards:
        sys.exit("The shards hold no pair that can be judged.")
    with replace_file(arguments.page) as temporary:
        temporary.write_text(fill_page(cards), encoding="utf-8")
    print(f"Drew {len(drawn):,} of {pairs:,} pairs; the images of {len(cards):,} can be shown.")
    print(f"Open {arguments.page.resolve().as_uri()}")


def read_pairs(shards: Sequence[str], limits: Limits) -> Iterator[Sample]:
    """Yields all pairs of the shards."""
    for shard in find_shards(shards):
        yield from (sample for sample in ShardReading(shard, limits=limits) if sample.status == OK)


def draw(pairs: Iterator[Sample], *, count: int, seed: int) -> tuple[list[Sample], int]:
    """Draws `count` pairs, each set of them with the same chance, without holding the others.

    Vitter's algorithm R (1985): the n-th pair gets one of the places with probability count / n.

    Returns:
        The pairs in random order, and how many there were to draw from.
    """
    lot, drawn, seen = random.Random(seed), [], 0  # noqa: S311 - no secret
    for seen, pair in enumerate(pairs, start=1):
        if len(drawn) < count:
            drawn.append(pair)
        elif (place := lot.randrange(seen)) < count:
            drawn[place] = pair
    lot.shuffle(drawn)
    return drawn, seen


def make_cards(pairs: Sequence[Sample], limits: Limits) -> list[dict[str, str]]:
    """What the page shows of each pair; one whose image does not decode is left out."""
    images = ((pair, pair.image) for pair in pairs)
    thumbnails = make_thumbnails(images, size_px=THUMBNAIL_PX, limits=limits, workers=0)
    return [
        {"shard": pair.shard, "key": pair.key, "caption": pair.caption or "", "image": image}
        for pair, image in thumbnails
        if image is not None
    ]


def fill_page(cards: Sequence[dict[str, str]]) -> str:
    """Puts the pairs into the page as JSON that no caption can break out of."""
    data = json.dumps(cards).replace("<", r"\u003c")
    name = hashlib.sha256(data.encode()).hexdigest()[:16]
    return PAGE.read_text(encoding="utf-8").replace("$NAME$", name).replace("$CARDS$", data)


if __name__ == "__main__":
    try:
        main()
    except NccleanerError as error:
        sys.exit(str(error))
