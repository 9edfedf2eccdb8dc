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
import tarfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from webshards import Pair, write_csv, write_shards

from nccleaner.data.nearest import nearest_captions, word_vectors
from nccleaner.data.noise import Indices, NoiseKind, mismatched, permute_captions
from nccleaner.files import replace_folder

TRAIN_IMAGES = 6_000
VALIDATION_IMAGES = 1_000
CAPTIONS_PER_IMAGE = 5

Split = Literal["train", "val"]


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
    caption_from[free] = free[_permute([clean[i] for i in free], plan)]
    wrong = mismatched(caption_from, images, captions)
    pairs = [
        Pair(pair.url, pair.image, captions[source])
        for pair, source in zip(clean, caption_from, strict=True)
    ]
    with replace_folder(folder) as temporary:
        names = write_shards(temporary / "shards", pairs)
        write_csv(temporary / "trusted.csv", ("shard", "key"), (names[i] for i in trusted))
        write_csv(
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
            write_shards(temporary / "shards", pairs)
    return folder


def build_clean(training: Path, folder: Path) -> None:
    """Makes shards of the pairs of training shards that are not mismatched, unless they are there.

    Args:
        training: As `build_training` made it.
        folder: Where the shards go, under their names; samples keep their keys.
    """
    if folder.exists():
        return
    with (training / "truth.csv").open(encoding="utf-8", newline="") as file:
        told = [tuple(row.values()) for row in csv.DictReader(file)]
    mismatched_names = {(shard, key) for shard, key, wrong in told if wrong == "1"}
    with replace_folder(folder) as temporary:
        for path in sorted((training / "shards").glob("*.tar")):
            with tarfile.open(path) as old, tarfile.open(temporary / path.name, "w") as new:
                for header in old:
                    if (path.stem, header.name.partition(".")[0]) not in mismatched_names:
                        new.addfile(header, old.extractfile(header))


def _permute(pairs: Sequence[Pair], plan: TrainingPlan) -> Indices:
    """Which pair's caption each pair gets, as `permute_captions` returns it."""
    images = [pair.image for pair in pairs]
    captions = [pair.caption for pair in pairs]
    nearest = None
    if plan.kind == "similar":
        vectors = word_vectors(captions)
        nearest = nearest_captions(vectors, image_ids=images, captions=captions)
    return permute_captions(
        images, ratio=plan.ratio, seed=plan.seed, kind=plan.kind, nearest=nearest
    )


def _draw_pairs(
    flickr8k: Path, split: Split, *, images: int, captions: int, rng: np.random.Generator
) -> list[Pair]:
    """Draws images, and captions of each, by lot; both stay in the order of the split."""
    texts = _read_captions(flickr8k, split)
    contents = _read_images(flickr8k, split)
    return [
        Pair(f"flickr8k:{name}", contents[name], caption)
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
