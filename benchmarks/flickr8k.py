"""Makes web shards with known mismatches out of Flickr8k, and clean ones to validate on.

In: `flickr8k/` of the data folder: `captions.csv` and the images of each split. Out, into folders
whose names say what is in them, so that a second call finds what the first one made:

    train-6000x1-600trusted-random-0.4-seed0/
      shards/                            00000.tar, 00000.parquet, 00000_stats.json, ...
      trusted.csv                        shard,key of pairs that kept their caption
      truth.csv                          shard,key,mismatched of every other pair
    validation-1000x5/shards/            clean

The same input gives the same bytes. Flickr8k is for research only: pass on nothing made of it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from nccleaner.data.noise import NoiseKind, mismatched, permute_captions
from nccleaner.files import replace_folder

SAMPLES_PER_SHARD = 1_000
TRAIN_IMAGES = 6_000
VALIDATION_IMAGES = 1_000
CAPTIONS_PER_IMAGE = 5

Split = Literal["train", "val"]
Name = tuple[str, str]  # shard and key

# What img2dataset writes.
SCHEMA = pa.schema(
    [
        ("caption", pa.string()),
        ("url", pa.string()),
        ("key", pa.string()),
        ("status", pa.string()),
        ("error_message", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("original_width", pa.int32()),
        ("original_height", pa.int32()),
        ("exif", pa.string()),
        ("sha256", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What decides the bytes of training shards.

    Attributes:
        images: Images, drawn by lot where the split has more.
        captions: Captions of each image, drawn by lot where it has more; each is a sample.
        trusted: Pairs, drawn by lot, that are trusted and so stay as they are.
        kind: Which of the others change captions; see `permute_captions`.
        ratio: Share of the others that change captions among themselves, in [0, 1].
        seed: Of everything that is drawn.
    """

    images: int
    captions: int
    trusted: int
    kind: NoiseKind
    ratio: float
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        size = f"{self.images}x{self.captions}"
        return f"train-{size}-{self.trusted}trusted-{self.kind}-{self.ratio}-seed{self.seed}"


@dataclass(frozen=True, slots=True)
class Pair:
    """An image file of Flickr8k with a caption, its own or another's."""

    image_name: str
    image: bytes
    caption: str


def build_training(flickr8k: Path, work: Path, plan: TrainingPlan) -> Path:
    """Makes training shards, with `trusted.csv` and `truth.csv` beside them, unless they are there.

    The noise is that of NCR (METHOD 5), on the pairs that are not trusted. All captions of an image
    follow each other, as in a list of URLs sorted by URL.

    Args:
        flickr8k: The data.
        work: Where the folder goes.
        plan: What it holds.

    Returns:
        The folder.
    """
    folder = work / plan.name
    if folder.exists():
        return folder
    rng = np.random.default_rng(plan.seed)
    clean = _draw_pairs(flickr8k, "train", images=plan.images, captions=plan.captions, rng=rng)
    order = rng.permutation(len(clean))
    trusted, free = np.sort(order[: plan.trusted]), np.sort(order[plan.trusted :])

    images = [pair.image for pair in clean]  # files of equal bytes are one image
    captions = [pair.caption for pair in clean]
    caption_from = np.arange(len(clean))
    caption_from[free] = free[
        permute_captions(
            [images[i] for i in free], ratio=plan.ratio, seed=plan.seed, kind=plan.kind
        )
    ]
    wrong = mismatched(caption_from, images, captions)
    pairs = [
        Pair(pair.image_name, pair.image, captions[source])
        for pair, source in zip(clean, caption_from, strict=True)
    ]
    with replace_folder(folder) as temporary:
        names = _write_shards(temporary / "shards", pairs)
        _write_csv(temporary / "trusted.csv", ("shard", "key"), (names[i] for i in trusted))
        _write_csv(
            temporary / "truth.csv",
            ("shard", "key", "mismatched"),
            ((*names[i], int(wrong[i])) for i in free),
        )
    return folder


def build_validation(flickr8k: Path, work: Path, *, images: int) -> Path:
    """Makes clean validation shards with all captions of an image, unless they are there.

    Args:
        flickr8k: The data.
        work: Where the folder goes.
        images: Images, the same ones every time where the split has more.

    Returns:
        The folder.
    """
    folder = work / f"validation-{images}x{CAPTIONS_PER_IMAGE}"
    if not folder.exists():
        rng = np.random.default_rng(0)
        pairs = _draw_pairs(flickr8k, "val", images=images, captions=CAPTIONS_PER_IMAGE, rng=rng)
        with replace_folder(folder) as temporary:
            _write_shards(temporary / "shards", pairs)
    return folder


def _draw_pairs(
    flickr8k: Path, split: Split, *, images: int, captions: int, rng: np.random.Generator
) -> list[Pair]:
    """Draws images, and captions of each, by lot; both stay in the order of the split."""
    texts = _read_captions(flickr8k, split)
    contents = _read_images(flickr8k, split)
    return [
        Pair(name, contents[name], caption)
        for name in _draw(sorted(texts), images, rng)
        for caption in _draw(texts[name], captions, rng)
    ]


def _draw(population: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    return [population[i] for i in np.sort(rng.choice(len(population), count, replace=False))]


def _read_captions(flickr8k: Path, split: Split) -> dict[str, list[str]]:
    """The captions of each image, by the name of its file."""
    captions = defaultdict(list)
    with (flickr8k / "captions.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["split"] == split:
                captions[row["image"]].append(row["caption"])
    return captions


def _read_images(flickr8k: Path, split: Split) -> dict[str, bytes]:
    """The bytes of each image, by the name of its file."""
    images = {}
    with tarfile.open(flickr8k / f"images_{split}.tar") as tar:
        for header in tar:
            member = tar.extractfile(header)
            if member is not None:
                images[header.name] = member.read()
    return images


def _write_shards(folder: Path, pairs: Sequence[Pair]) -> list[Name]:
    """Writes pairs as samples of img2dataset's `webdataset` output; returns their names."""
    folder.mkdir()
    digits = len(str(SAMPLES_PER_SHARD - 1))
    names = []
    for start in range(0, len(pairs), SAMPLES_PER_SHARD):
        shard = f"{start // SAMPLES_PER_SHARD:05d}"
        samples = {
            f"{shard}{row:0{digits}d}": pair
            for row, pair in enumerate(pairs[start : start + SAMPLES_PER_SHARD])
        }
        _write_shard(folder, shard, samples)
        names += [(shard, key) for key in samples]
    return names


def _write_shard(folder: Path, name: str, samples: Mapping[str, Pair]) -> None:
    """Writes the tar, the Parquet file and the statistics of one shard."""
    rows = [_metadata(key, pair) for key, pair in samples.items()]
    with tarfile.open(folder / f"{name}.tar", "w") as tar:
        for pair, row in zip(samples.values(), rows, strict=True):
            _add_member(tar, f"{row['key']}.jpg", pair.image)
            _add_member(tar, f"{row['key']}.txt", pair.caption.encode())
            _add_member(tar, f"{row['key']}.json", json.dumps(row, indent=4).encode())
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / f"{name}.parquet")
    stats = {
        "count": len(samples),
        "successes": len(samples),
        "failed_to_download": 0,
        "failed_to_resize": 0,
        "duration": 0.0,
        "start_time": 0.0,
        "end_time": 0.0,
        "status_dict": {"success": len(samples)},
    }
    (folder / f"{name}_stats.json").write_text(json.dumps(stats, indent=4))


def _metadata(key: str, pair: Pair) -> dict[str, object]:
    """The row of a sample in the Parquet file, and its JSON member."""
    width, height = Image.open(io.BytesIO(pair.image)).size
    return {
        "caption": pair.caption,
        "url": f"flickr8k:{pair.image_name}",
        "key": key,
        "status": "success",
        "error_message": None,
        "width": width,
        "height": height,
        "original_width": width,
        "original_height": height,
        "exif": "{}",
        "sha256": hashlib.sha256(pair.image).hexdigest(),
    }


def _add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Appends a file; a new header has a fixed time and owner: equal content gives equal bytes."""
    header = tarfile.TarInfo(name)
    header.size = len(content)
    tar.addfile(header, io.BytesIO(content))


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
