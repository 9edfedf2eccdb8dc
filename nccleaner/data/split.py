"""Divides the trusted pairs: some guide training, some are planted in the pool, some only judge.

Beside the planted ones stand mismatched probes, made of the pool itself. Labels, image ids and
captions enter, indices leave. Everything is decided by the seed alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from nccleaner.data.noise import Ids, Indices, classes_of, exchange
from nccleaner.errors import TrustedError, UsageError

# Fewer teach nothing; more hardly make estimates more certain, which hang on labels as well.
_LEAST_EXCHANGED, _MOST_EXCHANGED = 10, 1_000
_SALT = 0x4578


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


class Exchange(NamedTuple):
    """Pairs of the pool that become mismatched ones.

    Attributes:
        pairs: [n], which pairs; they ascend.
        caption_from: [n], which pair the caption of each comes from; a permutation of `pairs`.
    """

    pairs: Indices
    caption_from: Indices


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


def exchange_some(
    captions: Sequence[str], *, groups: Ids, pool: int, share: float, seed: int
) -> Exchange:
    """Decides which pairs of the noisy pool become mismatched probes (METHOD 4) [O].

    Whatever these pairs were, with each other's captions they are mismatched: nobody has to label
    them. They are drawn by seed, and none gets a caption that reads like one of its own image, but
    for white space; where one image or one text makes up most of them, more are drawn.

    Args:
        captions: [n], of the pairs of the pool, then of others that are known, as the trusted.
        groups: [n], equal where the images are.
        pool: How many of them are in the pool.
        share: How many of these to draw, in [0, 1]; but 10 at least and 1,000 at most.
        seed: The same seed exchanges the same captions.
    """
    images, texts = classes_of(groups), classes_of([" ".join(text.split()) for text in captions])
    # Noise that was made by the same seed, to test a cleaner, must not have drawn the same pairs.
    rng = np.random.default_rng([seed, _SALT])
    order = rng.permutation(pool)
    count = min(max(round(share * pool), _LEAST_EXCHANGED), _MOST_EXCHANGED)
    while True:
        drawn = np.sort(order[:count])
        if not len(drawn):
            return Exchange(drawn, drawn)
        known = np.isin(images, images[drawn])
        alike = _linked(images[known], texts[known])[(np.cumsum(known) - 1)[drawn]]
        caption_from = drawn[exchange(alike, rng)]
        moved = caption_from != drawn
        if moved.sum() >= _LEAST_EXCHANGED or count >= pool:
            return Exchange(drawn[moved], caption_from[moved])
        count *= 2


def _linked(images: Indices, texts: Indices) -> Indices:
    """Classes of pairs that share an image or a text with each other, directly or by others."""
    nodes = int(images.max()) + int(texts.max()) + 2
    edges = coo_array(
        (np.ones(len(images)), (images, texts + int(images.max()) + 1)), (nodes, nodes)
    )
    return connected_components(edges, directed=False)[1][images].astype(np.int64)
