"""Makes web shards of the papers' data sets out of a user's own copies (METHOD 5).

Flickr30K and MS-COCO, with known mismatches, from Karpathy's JSON and the folder of images:

    python benchmarks/papers.py karpathy dataset_flickr30k.json flickr30k-images/ f30k/
    python benchmarks/papers.py karpathy dataset_coco.json coco/ coco-20/ --noise-file 0.2.npy

CC152K, whose noise is real, from NCR's lists of captions and what img2dataset downloaded of each:

    python benchmarks/papers.py cc152k cc152k/ --train train_caps_img_urls.csv train-images/
        --trusted val_caps_img_urls.csv val-images/ --test test_caps_img_urls.csv test-images/

See docs/datasets.md for what comes out.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from webshards import Pair, write_csv, write_shards

from nccleaner.config import DataConfig
from nccleaner.data.locations import find_shards
from nccleaner.data.nearest import nearest_captions, word_vectors
from nccleaner.data.noise import Indices, NoiseKind, classes_of, mismatched, permute_captions
from nccleaner.data.reading import ShardReading
from nccleaner.errors import InputError, NccleanerError
from nccleaner.files import replace_folder
from nccleaner.pipeline.backbones import limits_of
from nccleaner.records import OK

CAPTIONS_PER_IMAGE = 5
TRUSTED = 1_000
SPLITS = ("train", "val", "test")
KINDS: tuple[NoiseKind, ...] = ("random", "block", "similar")


class Captioned(NamedTuple):
    """An image file with one of its captions."""

    image: Path
    caption: str


@dataclass(frozen=True, slots=True)
class Noise:
    """Which captions of the training pairs change places.

    Attributes:
        kind: How they move; see `permute_captions`.
        ratio: Share of the pairs that take part, in [0, 1].
        seed: Decides which.
        file: NCR's index instead of all that; see `read_noise_index`.
    """

    kind: NoiseKind = "random"
    ratio: float = 0.4
    seed: int = 0
    file: Path | None = None

    @property
    def name(self) -> str:
        """What tells it from others in the name of a folder."""
        drawn = f"{self.kind}-{self.ratio}" if self.file is None else self.file.stem
        return f"{drawn}-seed{self.seed}"

    def permutation(self, pairs: Sequence[Captioned]) -> Indices:
        """Returns for each pair which pair its new caption comes from."""
        images, captions = [str(pair.image) for pair in pairs], [pair.caption for pair in pairs]
        if self.file is not None:
            return read_noise_index(self.file, classes_of(images))
        nearest = None
        if self.kind == "similar":
            nearest = nearest_captions(word_vectors(captions), image_ids=images, captions=captions)
        return permute_captions(
            images, ratio=self.ratio, seed=self.seed, kind=self.kind, nearest=nearest
        )


def build_karpathy(
    dataset: Path, images: Path, out: Path, *, noise: Noise, captions: int, trusted: int
) -> Path:
    """Makes noisy training shards, and clean ones of the validation and the test images.

    Trusted pairs are drawn by lot from the training pairs that the noise leaves matched, as a
    person would find them. Folders that are there are left alone.

    Args:
        dataset: Karpathy's `dataset_*.json`; its `restval` images are for training [P].
        images: The folder of the images.
        out: Where the folders `val` and `test` go, and one for training whose name tells what is
            in it.
        noise: Of the training pairs.
        captions: Captions of each training image: the first five [P], or fewer of them by lot.
        trusted: Trusted pairs.

    Returns:
        The folder for training: `shards/`, `trusted.csv` and `truth.csv` of every other pair.

    Raises:
        InputError: A file is missing or not what it should be.
        UsageError: The ratio is not in [0, 1].
    """
    splits = read_karpathy(dataset, images)
    for split in ("val", "test"):
        if not (out / split).exists():
            with replace_folder(out / split) as folder:
                write_shards(folder / "shards", read_pairs(splits[split]))
    train = out / f"train-x{captions}-{trusted}trusted-{noise.name}"
    if not train.exists():
        write_training(train, splits["train"], noise=noise, captions=captions, trusted=trusted)
    return train


def write_training(
    out: Path, clean: Sequence[Captioned], *, noise: Noise, captions: int, trusted: int
) -> None:
    """Writes training shards with noise, and beside them which pairs are trusted or mismatched."""
    rng = np.random.default_rng(noise.seed)
    pairs = draw_captions(clean, captions, rng)
    caption_from = noise.permutation(pairs)
    wrong = mismatched(
        caption_from, [str(pair.image) for pair in pairs], [pair.caption for pair in pairs]
    )
    chosen = set(rng.permutation(np.flatnonzero(~wrong))[:trusted].tolist())
    moved = [
        Captioned(pair.image, pairs[source].caption)
        for pair, source in zip(pairs, caption_from, strict=True)
    ]
    with replace_folder(out) as folder:
        names = write_shards(folder / "shards", read_pairs(moved))
        write_csv(folder / "trusted.csv", ("shard", "key"), (names[i] for i in sorted(chosen)))
        write_csv(
            folder / "truth.csv",
            ("shard", "key", "mismatched"),
            ((*name, int(wrong[i])) for i, name in enumerate(names) if i not in chosen),
        )


def read_karpathy(dataset: Path, images: Path) -> Mapping[str, list[Captioned]]:
    """Reads the pairs of `train`, `val` and `test`, five captions an image, in the file's order.

    Raises:
        InputError: The file is not of that form.
    """
    splits: dict[str, list[Captioned]] = defaultdict(list)
    try:
        for entry in json.loads(dataset.read_text(encoding="utf-8"))["images"]:
            image = images / entry.get("filepath", "") / entry["filename"]
            split = "train" if entry["split"] == "restval" else entry["split"]
            splits[split] += [
                Captioned(image, " ".join(sentence["raw"].split()))
                for sentence in entry["sentences"][:CAPTIONS_PER_IMAGE]
            ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{dataset} cannot be read as Karpathy's data set: {type(error).__name__}: {error}.",
            "Give dataset_flickr30k.json or dataset_coco.json.",
        ) from error
    if missing := [split for split in SPLITS if not splits[split]]:
        raise InputError(f"{dataset} has no images of the split {missing[0]}.", "Mend the file.")
    return splits


def draw_captions(
    pairs: Sequence[Captioned], captions: int, rng: np.random.Generator
) -> list[Captioned]:
    """Draws so many captions of each image by lot, in their order; all where it has no more."""
    of_image: dict[Path, list[Captioned]] = defaultdict(list)
    for pair in pairs:
        of_image[pair.image].append(pair)
    return [
        found[i]
        for found in of_image.values()
        for i in np.sort(rng.permutation(len(found))[:captions])
    ]


def read_noise_index(path: Path, image_of: Indices) -> Indices:
    """Reads a noise index as NCR's code saves it (`np.save(noise_file, t2i_index)`).

    Entry c is the number of the image that caption c is shown with; captions and images are
    numbered in the order of the split. Clean, it is 0, 0, 0, 0, 0, 1, …; with noise, a share of the
    entries is shuffled.

    Args:
        path: The `.npy` file.
        image_of: [n], the image of each caption, ascending.

    Returns:
        [n], the same as a permutation: pair i gets the caption of pair `result[i]`.

    Raises:
        InputError: It is not a shuffled `image_of`.
    """
    try:
        shown = np.load(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}", "Give an array of numpy.") from error
    if shown.shape != image_of.shape or not np.array_equal(np.sort(shown), image_of):
        raise InputError(
            f"{path} is no noise index of these pairs: expected the numbers of "
            f"{image_of[-1] + 1} images for {len(image_of)} captions, each as often as the image "
            f"has captions, found an array of shape {shown.shape}.",
            "Give the index of this data set; NCR's need all five captions an image.",
        )
    # The captions shown with image 0 in its places, those with image 1 in the next, and so on.
    return np.argsort(shown, kind="stable")


def read_pairs(pairs: Sequence[Captioned]) -> Iterator[Pair]:
    """Reads the images one after the other.

    Raises:
        InputError: One cannot be read.
    """
    for pair in pairs:
        try:
            image = pair.image.read_bytes()
        except OSError as error:
            raise InputError(
                f"{pair.image} cannot be read: {error.strerror}.",
                "Give the folder in which the images are, as the JSON names them.",
            ) from error
        yield Pair(f"file:{pair.image.name}", image, pair.caption)


class Downloads(NamedTuple):
    """A split of CC152K: NCR's list of id, caption and URL, and img2dataset's output for it."""

    captions: Path
    images: Path


def build_cc152k(out: Path, *, train: Downloads, trusted: Downloads, test: Downloads) -> None:
    """Makes shards of the training and the test pairs, and a trusted file.

    The noise is real and so there is no truth. Pairs of CC's validation split are taken for
    matched; they are web data too, and worth a look. Folders that are there are left alone.

    Args:
        out: Where the folders `train`, `trusted` and `test` go.
        train: The pairs to clean.
        trusted: Pairs of the validation split; `trusted/trusted.csv` names their image files.
        test: Pairs to measure retrieval on.

    Raises:
        InputError: A list is not of NCR's form, or shards have no URLs.
    """
    for name, split in (("train", train), ("test", test)):
        if not (out / name).exists():
            with replace_folder(out / name) as folder:
                write_shards(folder / "shards", read_downloads(split))
    if not (out / "trusted").exists():
        with replace_folder(out / "trusted") as folder:
            rows = []
            for number, pair in enumerate(read_downloads(trusted)):
                rows.append((f"{number:06d}.jpg", pair.caption))
                (folder / rows[-1][0]).write_bytes(pair.image)
            write_csv(folder / "trusted.csv", ("image", "caption"), rows)


def read_downloads(split: Downloads) -> Iterator[Pair]:
    """Yields the pairs of a split that were downloaded, with NCR's captions, found by URL."""
    captions = read_caption_list(split.captions)
    found = 0
    for shard in find_shards(split.images):
        reading = ShardReading(shard, limits=limits_of(DataConfig()))
        samples = list(reading)
        columns = reading.metadata()
        if "url" not in columns.column_names:
            raise InputError(f"{shard.url} has no URLs.", "Give what img2dataset wrote.")
        for sample, url in zip(samples, columns["url"].to_pylist(), strict=True):
            if sample.status == OK and sample.image is not None and url in captions:
                found += 1
                yield Pair(url, sample.image, captions[url])
    if not found:
        raise InputError(
            f"{split.images} holds no image of a URL in {split.captions}.",
            "Download that list, with its URLs as they are.",
        )


def read_caption_list(path: Path) -> dict[str, str]:
    """Reads captions by URL from NCR's `*_caps_img_urls.csv`: tabs, no header, nothing quoted.

    Raises:
        InputError: It cannot be read, or is not of that form.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}.", "Name NCR's file.") from error
    for number, row in enumerate(rows, 1):
        if len(row) != len(("id", "caption", "url")):
            raise InputError(
                f"{path}, line {number}: expected id, caption and URL with tabs between, found "
                f"{len(row)} fields.",
                "Give NCR's file as it is.",
            )
    return {url: caption for _, caption, url in rows}


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    karpathy = commands.add_parser("karpathy", help="Flickr30K and MS-COCO")
    add, default = karpathy.add_argument, Noise()
    add("dataset", type=Path, help="Karpathy's dataset_*.json")
    add("images", type=Path, help="the folder of the images")
    add("out", type=Path, help="for the folders that are made")
    add("--ratio", type=float, default=default.ratio, help="of the noise (0.4)")
    add("--kind", choices=KINDS, default=default.kind, help="of the noise (random)")
    add("--seed", type=int, default=default.seed, help="of what is drawn (0)")
    add("--noise-file", type=Path, metavar="NPY", help="NCR's index, instead of ratio and kind")
    add("--captions", type=int, default=CAPTIONS_PER_IMAGE, help="of a training image (5)")
    add("--trusted", type=int, default=TRUSTED, help="pairs (1000)")
    cc152k = commands.add_parser("cc152k", help="CC152K")
    cc152k.add_argument("out", type=Path, help="for the folders train, trusted and test")
    for name in ("train", "trusted", "test"):
        cc152k.add_argument(
            f"--{name}", type=Path, nargs=2, required=True, metavar=("CSV", "IMAGES")
        )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes what the arguments ask for, and says what to do with it."""
    given = parse_arguments(arguments)
    try:
        if given.command == "karpathy":
            train = build_karpathy(
                given.dataset,
                given.images,
                given.out,
                noise=Noise(given.kind, given.ratio, given.seed, given.noise_file),
                captions=given.captions,
                trusted=given.trusted,
            )
            trusted = train / "trusted.csv"
        else:
            build_cc152k(
                given.out,
                train=Downloads(*given.train),
                trusted=Downloads(*given.trusted),
                test=Downloads(*given.test),
            )
            train, trusted = given.out / "train", given.out / "trusted" / "trusted.csv"
    except NccleanerError as error:
        sys.exit(str(error))
    print(f"nccleaner fit {train / 'shards'} --meta {trusted}")
    print(f"nccleaner evaluate {given.out / 'test' / 'shards'}")


if __name__ == "__main__":
    main()
