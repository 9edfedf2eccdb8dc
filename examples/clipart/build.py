"""Makes the embedded example out of the Open Clip Art Library: real drawings, real, noisy captions.

In: `openclipart/metadata.csv` and `openclipart/images.tar` in the data folder, and `reviewed.csv`
beside this script, the verdicts on the pairs that were looked at. Out, into a folder (by default
this one): `shards/` as img2dataset writes them with `output_format="parquet"`, `truth.csv` (which
captions were shuffled) and `trusted.csv` (the reviewed pairs).

The same input gives the same bytes, and image bytes are copied as they are. Pairs are chosen by
their text and the size of their file, never by anything that a model says about them.

    python examples/clipart/build.py [OUT]     # reads $NCC_DATA, by default ../shared/data
"""

from __future__ import annotations

import csv
import html
import io
import json
import os
import random
import re
import sys
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from nccleaner.data.writing import DOWNLOAD_SCHEMA, download_fields, shard_stats

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

HERE = Path(__file__).resolve().parent
REVIEWED = HERE / "reviewed.csv"

SEED = 0
PAIRS_PER_SHARD = 500
MISMATCHED_SHARE = 0.3
MAX_TITLE_USES = 3
MIN_KEYWORDS = 2
MAX_IMAGE_BYTES = 12_000  # so that the example stays under 8 MB

# Titles that name a collection or its author, not the drawing.
BOILERPLATE = re.compile(
    r"clipart by|collection|icon ?set|icons$|theme|@|^various|^[\W\d]*$", re.IGNORECASE
)
# Uploads that an example for everybody can do without; the last is traced from a film.
UNWANTED = re.compile(
    r"stripper|sexy|\bsex\b|babe|pantyhose|eroti[ck]|my lovely baby", re.IGNORECASE
)
# Drawings whose place a note has taken: Linked Image Not Found.
PLACEHOLDERS = {"animals__birds__duck_yellow_ii_kurt_cagl_.jpg"}
# Keywords that say nothing of a drawing: broken hashes, upload batches, an author, and the folders
# and page with which the library keeps house.
HOUSEKEEPING = re.compile(
    r"hash\b.*|0x.*|.*@.*|\W*|\d+|(app|web)?icons?|\w+_icon|unsorted|webpage|openclipart"
    r"|signs_and_symbols|united_nations_member|subnational|clip.?art|theme|computer|recreation"
    r"|special|menu|architetto.francesco.rollandin",
    re.IGNORECASE,
)

# img2dataset's columns after two that the list of URLs would have had, then the images.
SCHEMA = pa.schema(
    [("title", pa.string()), ("category", pa.string()), *DOWNLOAD_SCHEMA, ("jpg", pa.binary())]
)


@dataclass(frozen=True, slots=True)
class Drawing:
    """One file of the library with what its uploader wrote about it.

    Attributes:
        name: File name in `images.tar`: the library's folders and the name, joined by `__`.
        image: The JPEG.
        title: The title as a reader sees it.
        keywords: The keywords without the library's housekeeping, underscores as spaces.
        category: The library's top folder.
    """

    name: str
    image: bytes
    title: str
    keywords: tuple[str, ...]
    category: str

    @property
    def caption(self) -> str:
        """The title and the keywords: `Apple Juice Box, beverage, apple, juice, fruit`."""
        return ", ".join((self.title, *self.keywords))


@dataclass(frozen=True, slots=True)
class Pair:
    """One sample of the example: a drawing with the caption it got, its own or another's."""

    shard: str
    key: str
    drawing: Drawing
    caption: str

    @property
    def mismatched(self) -> bool:
        """Whether the caption was taken from another drawing."""
        return self.caption != self.drawing.caption


def read_library(folder: Path) -> list[Drawing]:
    """Reads every drawing, in the order of `metadata.csv`."""
    images = {}
    with tarfile.open(folder / "images.tar") as tar:
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None, f"{member.name} in images.tar is no file"
            images[member.name] = content.read()
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        return [read_drawing(row, images[row["image"]]) for row in csv.DictReader(file)]


def read_drawing(row: Mapping[str, str], image: bytes) -> Drawing:
    """One row of `metadata.csv` with its image; resolves entities such as `(B &amp; W)`."""
    keywords = html.unescape(row["keywords"]).split("; ")
    return Drawing(
        name=row["image"],
        image=image,
        title=" ".join(html.unescape(row["title"]).replace("_", " ").split()).removesuffix(".svg"),
        keywords=tuple(k.replace("_", " ") for k in keywords if not HOUSEKEEPING.fullmatch(k)),
        category=row["category"],
    )


def is_wanted(drawing: Drawing, title_uses: int) -> bool:
    """Whether the text says enough about this drawing that a person can check it by looking."""
    return (
        title_uses <= MAX_TITLE_USES
        and len(drawing.keywords) >= MIN_KEYWORDS
        and len(drawing.image) <= MAX_IMAGE_BYTES
        and drawing.name not in PLACEHOLDERS
        and not BOILERPLATE.search(drawing.title)
        and not any(UNWANTED.search(text) for text in (drawing.title, *drawing.keywords))
    )


def select(library: Sequence[Drawing]) -> list[Drawing]:
    """The wanted drawings, in the library's order; no image twice, none that is blank."""
    uses = Counter(drawing.title.casefold() for drawing in library)
    selected: dict[bytes, Drawing] = {}
    for drawing in library:
        if is_wanted(drawing, uses[drawing.title.casefold()]):
            selected.setdefault(drawing.image, drawing)
    return [drawing for drawing in selected.values() if not is_blank(drawing)]


def is_blank(drawing: Drawing) -> bool:
    """Whether it has only one colour, as white on white has."""
    return pixels_of(drawing).getcolors(maxcolors=1) is not None


def pixels_of(drawing: Drawing) -> Image.Image:
    """The decoded JPEG."""
    return Image.open(io.BytesIO(drawing.image))


def pair_up(
    selected: Sequence[Drawing], reviewed: Mapping[str, object], rng: random.Random
) -> list[Pair]:
    """Puts the drawings in random order, and hands the captions of a random share on in a ring.

    Captions may repeat, so the ring is shuffled until each drawing in it gets another caption than
    its own. Reviewed pairs stay as they were seen.
    """
    drawings = rng.sample(selected, len(selected))
    unseen = [drawing for drawing in drawings if drawing.name not in reviewed]
    ring = rng.sample(unseen, round(MISMATCHED_SHARE * len(drawings)))
    while any(drawing.caption == donor.caption for drawing, donor in ring_of(ring)):
        rng.shuffle(ring)
    captions = {drawing.name: drawing.caption for drawing in drawings}
    captions |= {drawing.name: donor.caption for drawing, donor in ring_of(ring)}
    digits = len(str(PAIRS_PER_SHARD - 1))
    pairs = []
    for index, drawing in enumerate(drawings):
        shard, row = divmod(index, PAIRS_PER_SHARD)
        key = f"{shard:05d}{row:0{digits}d}"
        pairs.append(Pair(f"{shard:05d}", key, drawing, captions[drawing.name]))
    return pairs


def ring_of(drawings: Sequence[Drawing]) -> Iterable[tuple[Drawing, Drawing]]:
    """Every drawing with the next one; the last with the first."""
    return zip(drawings, [*drawings[1:], *drawings[:1]], strict=True)


def row_of(pair: Pair) -> dict[str, object]:
    """The row of a pair in img2dataset's Parquet file."""
    drawing = pair.drawing
    return {
        "title": drawing.title,
        "category": drawing.category,
        **download_fields(
            pair.key,
            url=f"openclipart:{drawing.name}",
            image=drawing.image,
            caption=pair.caption,
            size_px=pixels_of(drawing).size,
        ),
        "jpg": drawing.image,
    }


def write_shard(folder: Path, name: str, pairs: Sequence[Pair]) -> None:
    """Writes the Parquet file and the statistics of one shard."""
    table = pa.Table.from_pylist([row_of(pair) for pair in pairs], schema=SCHEMA)
    pq.write_table(table, folder / f"{name}.parquet", compression="zstd")
    (folder / f"{name}_stats.json").write_text(json.dumps(shard_stats(len(pairs)), indent=4) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a small table with Unix line ends."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def read_reviewed(path: Path) -> dict[str, str]:
    """The label of each pair that was looked at, by image name.

    `1`: the caption describes the image; `0`: it does not; empty: hard to say.
    """
    with path.open(encoding="utf-8", newline="") as file:
        return {row["image"]: row["label"] for row in csv.DictReader(file)}


def build(library: Path, out: Path) -> None:
    """Writes `shards/`, `truth.csv` and `trusted.csv` into `out`."""
    rng = random.Random(SEED)  # noqa: S311 - lots for an example, no secret
    reviewed = read_reviewed(REVIEWED)
    selected = select(read_library(library))
    gone = reviewed.keys() - {drawing.name for drawing in selected}
    if gone:
        sys.exit(f"{REVIEWED.name} names images that the rules do not select: {sorted(gone)}")
    pairs = pair_up(selected, reviewed, rng)

    shards = out / "shards"
    shards.mkdir(parents=True, exist_ok=True)
    for name in sorted({pair.shard for pair in pairs}):
        write_shard(shards, name, [pair for pair in pairs if pair.shard == name])
    write_csv(
        out / "truth.csv",
        ("shard", "key", "mismatched"),
        ((pair.shard, pair.key, int(pair.mismatched)) for pair in pairs),
    )
    write_csv(
        out / "trusted.csv",
        ("shard", "key", "label"),
        (
            (pair.shard, pair.key, reviewed[pair.drawing.name])
            for pair in pairs
            if reviewed.get(pair.drawing.name)
        ),
    )


if __name__ == "__main__":
    data = Path(os.environ.get("NCC_DATA", HERE.parents[2] / "shared" / "data"))
    build(data / "openclipart", Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
