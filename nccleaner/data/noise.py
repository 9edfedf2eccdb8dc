"""Permutations that mismatch captions and images: which caption goes where, no files.

Images enter as ids, one a pair: pairs with equal ids show the same image. A permutation leaves,
as an array that says for each pair which pair its new caption comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from nccleaner.errors import UsageError

Indices = npt.NDArray[np.int64]
Ids = npt.NDArray[np.generic] | Sequence[object]

NoiseKind = Literal["random", "block", "similar", "same-category"]


def check_noise(ratio: float, kind: str) -> None:
    """Raises `UsageError` unless `ratio` is in [0, 1] and `kind` is known."""
    if not 0 <= ratio <= 1:
        raise UsageError(f"Expected a noise ratio from 0 to 1, found {ratio}.", "Change the ratio.")
    if kind not in get_args(NoiseKind):
        names = " or ".join(get_args(NoiseKind))
        raise UsageError(f"Expected noise of a kind {names}, found {kind!r}.", "Use one.")


def permute_captions(
    image_ids: Ids,
    *,
    ratio: float,
    seed: int,
    kind: NoiseKind,
    nearest: Indices | None = None,
    categories: Ids | None = None,
) -> Indices:
    """Mismatches a share of pairs by the protocol of NCR (Huang et al., NeurIPS 2021), or harder.

    `random` [P] chooses a share of the pairs and permutes their captions among themselves, so a
    caption may come back to its image by chance and slightly fewer pairs than chosen change.
    `block` [O] chooses images and lets all captions of an image move together, to an image with
    as many captions: agreement among the captions of an image then says nothing.
    `similar` [O] swaps captions that read alike, two by two, as far as there are such:
    `share_nearest` tells how far.
    `same-category` [O] chooses as `random` does, and exchanges captions only within a category.

    Args:
        image_ids: [n], equal where the images are.
        ratio: Share of the pairs that take part, in [0, 1].
        seed: The same seed gives the same permutation.
        kind: Which pairs take part, and how they move.
        nearest: [n, k], for `similar`: the pairs with the nearest captions, as `nearest_captions`
            returns them.
        categories: [n], for `same-category`: the category of each pair.

    Returns:
        [n], a permutation: pair i gets the caption of pair `result[i]`.

    Raises:
        UsageError: `ratio` is not in [0, 1], or there is no such `kind`.
    """
    check_noise(ratio, kind)
    images, rng = classes_of(image_ids), np.random.default_rng(seed)
    if kind == "similar":
        assert nearest is not None, "similar needs the nearest captions"
        return _similar(images, ratio, rng, nearest)
    if kind == "same-category":
        assert categories is not None, "same-category needs categories"
        return _same_category(images, ratio, rng, classes_of(categories))
    return _block(images, ratio, rng) if kind == "block" else _random(images, ratio, rng)


def share_nearest(caption_from: Indices, nearest: Indices) -> float:
    """Returns the share of moved captions that came from one of the pair's nearest, in [0, 1].

    Args:
        caption_from: [n], as `permute_captions` returns it.
        nearest: [n, k], as it was given there.
    """
    moved = np.flatnonzero(caption_from != np.arange(len(caption_from)))
    found = (nearest[moved] == caption_from[moved, None]).any(axis=1)
    return float(found.mean()) if len(moved) else 1.0


def mismatched(
    caption_from: Indices, image_ids: Ids, captions: Sequence[str]
) -> npt.NDArray[np.bool_]:
    """Tells which pairs a permutation mismatches.

    NCR calls a pair mismatched when its image changed. On the web many images share one caption,
    so [O] the text must have changed too: a pair is mismatched if nothing that was paired with
    its image before reads like its new caption. Where captions are unique the two are the same.

    Args:
        caption_from: [n], as `permute_captions` returns it.
        image_ids: [n], equal where the images are.
        captions: [n], in their old places.

    Returns:
        [n], True where mismatched.
    """
    images, texts = classes_of(image_ids), classes_of(captions)
    n_texts = int(texts.max(initial=-1)) + 1
    before = images * n_texts + texts  # one number for each combination
    after = images * n_texts + texts[caption_from]
    return ~np.isin(after, before)


def exchange(classes: Indices, rng: np.random.Generator) -> Indices:
    """Permutes at random such that nothing goes to a place of its own class.

    A class with more than half of the elements cannot be exchanged wholly; a random choice of its
    elements stays where it is, so that the others can.

    Args:
        classes: [n], small integers.
        rng: Decides the order.

    Returns:
        [n], a permutation: place i gets element `result[i]`; `result[i] == i` where it stays.
    """
    order = rng.permutation(len(classes))
    sizes = np.bincount(classes, minlength=1)
    largest = int(sizes.argmax())
    excess = max(0, int(2 * sizes[largest] - len(classes)))
    stays = order[classes[order] == largest][:excess]
    moving = order[~np.isin(order, stays)]
    # Class after class, a step as long as the largest class always leads into another.
    turn = rng.permutation(len(sizes))
    moving = moving[np.argsort(turn[classes[moving]], kind="stable")]
    result = np.arange(len(classes), dtype=np.int64)
    result[moving] = np.roll(moving, -int(np.bincount(classes[moving], minlength=1).max()))
    return result


def classes_of(values: Ids) -> Indices:
    """Numbers the different values from 0: [n], equal where the values are."""
    # A dictionary, not numpy.unique: an array of strings is as wide as the longest of them.
    numbers: dict[object, int] = {}
    found = (numbers.setdefault(value, len(numbers)) for value in values)
    return np.fromiter(found, dtype=np.int64, count=len(values))


def _random(images: Indices, ratio: float, rng: np.random.Generator) -> Indices:
    return _permute_share(len(images), ratio, rng)


def _block(images: Indices, ratio: float, rng: np.random.Generator) -> Indices:
    result = np.arange(len(images), dtype=np.int64)
    pairs = np.argsort(images, kind="stable")  # the pairs of image 0, of image 1, …
    counts = np.bincount(images, minlength=1)
    starts = np.cumsum(counts) - counts
    for count in np.unique(counts[counts > 0]):
        alike = np.flatnonzero(counts == count)
        blocks = pairs[starts[alike][:, None] + np.arange(count)]  # [images, captions of each]
        result[blocks] = blocks[_permute_share(len(alike), ratio, rng)]
    return result


def _similar(images: Indices, ratio: float, rng: np.random.Generator, nearest: Indices) -> Indices:
    """Swaps with a near one first, then exchanges what is missing to the ratio at random."""
    result = np.arange(len(images), dtype=np.int64)
    free = np.ones(len(images), dtype=np.bool_)
    swaps = round(ratio * len(images)) // 2
    order = rng.permutation(len(images))
    # Where both are near the other, two captions are swapped well; where one is, at least one is.
    for both in (True, False):
        for i in order:
            if not swaps:
                return result
            partner = _free_partner(i, nearest, free, both=both, rng=rng) if free[i] else None
            if partner is not None:
                result[[i, partner]] = partner, i
                free[[i, partner]] = False
                swaps -= 1
    rest = order[free[order]][: 2 * swaps]
    result[rest] = rest[exchange(images[rest], rng)]
    return result


def _free_partner(
    i: int,
    nearest: Indices,
    free: npt.NDArray[np.bool_],
    *,
    both: bool,
    rng: np.random.Generator,
) -> int | None:
    """One of the nearest of pair `i` that is free, by lot; with `both`, `i` is also near it."""
    near = nearest[i][nearest[i] >= 0]
    near = near[free[near]]
    if both:
        near = near[(nearest[near] == i).any(axis=1)]
    return int(rng.choice(near)) if len(near) else None


def _same_category(
    images: Indices, ratio: float, rng: np.random.Generator, categories: Indices
) -> Indices:
    result = np.arange(len(images), dtype=np.int64)
    chosen = rng.permutation(len(images))[: round(ratio * len(images))]
    chosen = chosen[np.argsort(categories[chosen], kind="stable")]
    firsts = np.flatnonzero(np.diff(categories[chosen])) + 1
    for members in np.split(chosen, firsts):
        if len(members):
            result[members] = members[exchange(images[members], rng)]
    return result


def _permute_share(n: int, ratio: float, rng: np.random.Generator) -> Indices:
    chosen = rng.permutation(n)[: round(ratio * n)]
    result = np.arange(n, dtype=np.int64)
    result[chosen] = rng.permutation(chosen)
    return result
