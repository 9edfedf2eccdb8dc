"""Divides the trusted pairs: some guide training, some are planted in the pool, some only judge.

Labels and image ids enter, indices leave. Everything is decided by the seed alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from nccleaner.data.noise import Ids, Indices, classes_of, exchange
from nccleaner.errors import TrustedError, UsageError


@dataclass(frozen=True, slots=True)
class TrustedSplit:
    """Which trusted pairs serve what. Every pair is in exactly one part; indices ascend.

    Attributes:
        meta: Guide training.
        probe: Are planted in the noisy pool, to calibrate what the pool is judged by.
        held_out: Choose the snapshot, and judge pairs outside the pool.
    """

    meta: Indices
    probe: Indices
    held_out: Indices


@dataclass(frozen=True, slots=True)
class PlantedProbes:
    """The probes as the pool shows them.

    Attributes:
        caption_from: [n] int64, which probe the caption comes from; a permutation.
        matched: [n] bool, whether the caption fits its image. Hidden from training.
    """

    caption_from: Indices
    matched: npt.NDArray[np.bool_]


def split_trusted(
    labels: npt.ArrayLike, *, groups: Ids, seed: int, shares: tuple[float, float, float]
) -> TrustedSplit:
    """Splits trusted pairs by seed into meta, probe and held out.

    Each part gets its share of each label, to within one pair where every image is in one pair
    only. Pairs of one image stay together, since a network that saw the image with one caption is
    no stranger to it with another.

    Args:
        labels: [n], 1 for matched and 0 for mismatched pairs.
        groups: [n], equal where the images are.
        seed: The same seed gives the same split.
        shares: Of meta, probe and held out; they add up to 1.

    Raises:
        UsageError: The shares are negative or do not add up to 1.
        TrustedError: A part with a share stays empty: too few images.
    """
    if min(shares) < 0 or not math.isclose(sum(shares), 1):
        raise UsageError(f"Expected shares that add up to 1, found {shares}.", "Change the shares.")
    images = classes_of(groups)
    # Pairs of each image [images, labels], and what each part still lacks [labels, parts].
    counts = np.zeros((int(images.max(initial=-1)) + 1, 2))
    np.add.at(counts, (images, np.asarray(labels, dtype=np.int64)), 1)
    lacking = np.outer(counts.sum(axis=0), shares)
    part_of = np.empty(len(counts), dtype=np.int64)
    order = np.random.default_rng(seed).permutation(len(counts))
    # Large groups first: the small ones then even out what they leave.
    for image in order[np.argsort(-counts[order].sum(axis=1), kind="stable")]:
        part_of[image] = np.argmax(counts[image] @ lacking)
        lacking[:, part_of[image]] -= counts[image]
    parts = [np.flatnonzero(part_of[images] == part) for part in range(3)]
    if any(share > 0 and not part.size for share, part in zip(shares, parts, strict=True)):
        raise TrustedError(
            f"{len(images)} trusted pairs of {len(counts)} images are too few to split in three.",
            "Add trusted pairs of other images.",
        )
    return TrustedSplit(*parts)


def plant_probes(
    labels: npt.ArrayLike, captions: Sequence[str], *, groups: Ids, seed: int
) -> PlantedProbes:
    """Decides which probes enter the noisy pool with a wrong caption (METHOD 4) [O].

    Half of the probes labelled 1, drawn by seed, exchange their captions among themselves: none
    gets a caption of its own image, nor one that reads the same. Where one image or one text makes
    up most of that half, fewer are exchanged; with fewer than two, none. Probes labelled 0 are
    mismatched as they are.

    Args:
        labels: [n], 1 for matched and 0 for mismatched pairs.
        captions: [n], one for each probe.
        groups: [n], equal where the images are.
        seed: The same seed plants the same probes.
    """
    matched = np.asarray(labels) == 1
    rng = np.random.default_rng(seed)
    candidates = np.flatnonzero(matched)
    half = np.sort(rng.permutation(candidates)[: len(candidates) // 2])
    caption_from = np.arange(len(matched), dtype=np.int64)
    if half.size:
        alike = _linked(classes_of(groups), classes_of(captions))
        caption_from[half] = half[exchange(alike[half], rng)]
    return PlantedProbes(caption_from, matched & (caption_from == np.arange(len(matched))))


def _linked(images: Indices, texts: Indices) -> Indices:
    """Classes of pairs that share an image or a text with each other, directly or by others."""
    nodes = int(images.max()) + int(texts.max()) + 2
    edges = coo_array(
        (np.ones(len(images)), (images, texts + int(images.max()) + 1)), (nodes, nodes)
    )
    return connected_components(edges, directed=False)[1][images].astype(np.int64)
