"""How well images find their captions and captions their images.

Embeddings of clean pairs enter, recalls leave. An image may have several captions; a caption has
one image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt

from nccleaner.errors import InputError

# Similarities held at a time: 64 MiB of float32, however many images and captions there are.
_BLOCK_VALUES = 1 << 24

_Floats = npt.NDArray[np.float32]
_Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RetrievalMetrics:
    """Recalls in percent, [0, 100]: the share of queries with a right answer among the first k.

    Attributes:
        images: Images that were queries.
        captions: Captions that were queries.
        image_to_text_r1: An image finds one of its captions first.
        image_to_text_r5: … among the first five.
        image_to_text_r10: … among the first ten.
        text_to_image_r1: A caption finds its image first.
        text_to_image_r5: … among the first five.
        text_to_image_r10: … among the first ten.
        rsum: Sum of the six, [0, 600].
    """

    images: int
    captions: int
    image_to_text_r1: float
    image_to_text_r5: float
    image_to_text_r10: float
    text_to_image_r1: float
    text_to_image_r5: float
    text_to_image_r10: float
    rsum: float


def retrieval_metrics(
    image_embeddings: npt.ArrayLike, text_embeddings: npt.ArrayLike, image_of_caption: npt.ArrayLike
) -> RetrievalMetrics:
    """Measures retrieval by inner product, both ways (METHOD 5).

    An image's rank is that of its best caption. A wrong answer that scores the same as the right
    one counts as before it, so that a network that maps everything to one point finds nothing.
    Images without a caption are answers, but no queries.

    Args:
        image_embeddings: [i, d], L2-normalised for cosines.
        text_embeddings: [c, d], likewise.
        image_of_caption: [c], for each caption the row of its image.

    Raises:
        InputError: Shapes that do not belong together, no captions, a caption of an image that is
            not there, or embeddings that are not finite.
    """
    images = np.asarray(image_embeddings, dtype=np.float32)
    texts = np.asarray(text_embeddings, dtype=np.float32)
    image_of = np.asarray(image_of_caption, dtype=np.int64)
    _check(images, texts, image_of)
    by_image = _recalls(_ranks_of_images(images, texts, image_of))
    by_text = _recalls(_ranks_of_texts(images, texts, image_of))
    return RetrievalMetrics(
        np.unique(image_of).size, len(texts), *by_image, *by_text, rsum=sum(by_image + by_text)
    )


def mean_over_folds(
    image_embeddings: npt.ArrayLike,
    text_embeddings: npt.ArrayLike,
    image_of_caption: npt.ArrayLike,
    *,
    folds: int,
) -> RetrievalMetrics:
    """Measures retrieval within each of several folds of images, and returns the mean.

    Five folds of the 5,000 test images are MS-COCO's protocol "1K" (Karpathy and Fei-Fei, CVPR
    2015); all at once, by `retrieval_metrics`, is "5K". Folds are images that follow each other;
    where they do not come out even, the first ones have one more.

    Args:
        image_embeddings: [i, d], as for `retrieval_metrics`; each must have a caption.
        text_embeddings: [c, d].
        image_of_caption: [c].
        folds: How many, 1 or more.

    Returns:
        Means of the recalls; images and captions are counted over all folds.

    Raises:
        InputError: As `retrieval_metrics`, or there are more folds than images with captions.
    """
    images, texts = np.asarray(image_embeddings), np.asarray(text_embeddings)
    image_of = np.asarray(image_of_caption)
    if folds > len(images):
        raise InputError(
            f"{len(images)} images cannot be divided into {folds} folds.", "Ask for fewer folds."
        )
    found = []
    for rows in np.array_split(np.arange(len(images)), folds):
        captions = np.isin(image_of, rows)
        metrics = retrieval_metrics(images[rows], texts[captions], image_of[captions] - rows[0])
        found.append(astuple(metrics))
    images_seen, captions_seen, *_ = np.sum(found, axis=0).astype(int).tolist()
    return RetrievalMetrics(images_seen, captions_seen, *np.mean(found, axis=0)[2:].tolist())


def _check(images: _Floats, texts: _Floats, image_of: _Indices) -> None:
    shapes = f"{images.shape}, {texts.shape} and {image_of.shape}"
    fit = (
        images.ndim == texts.ndim == 2
        and images.shape[1] == texts.shape[1]
        and image_of.shape == (len(texts),)
        and len(texts) > 0
    )
    if not fit:
        raise InputError(f"Expected shapes [i, d], [c, d] and [c], c > 0, found {shapes}.")
    if image_of.min() < 0 or image_of.max() >= len(images):
        raise InputError(
            f"Expected captions of images 0 to {len(images) - 1}, found {image_of.min()} to "
            f"{image_of.max()}."
        )
    if not (np.isfinite(images).all() and np.isfinite(texts).all()):
        raise InputError("Found embeddings that are not finite.", "Train again, or look for why.")


def _ranks_of_images(images: _Floats, texts: _Floats, image_of: _Indices) -> _Indices:
    """For each image with captions: how many captions of others come before its best one."""
    queries = np.unique(image_of)
    ranks = []
    for block in _blocks(queries, len(texts)):
        similarity = images[block] @ texts.T  # [b, c]
        own = block[:, None] == image_of  # [b, c]
        best = similarity.max(axis=1, where=own, initial=-np.inf, keepdims=True)
        ranks.append(((similarity >= best) & ~own).sum(axis=1))
    return np.concatenate(ranks)


def _ranks_of_texts(images: _Floats, texts: _Floats, image_of: _Indices) -> _Indices:
    """For each caption: how many other images come before its own."""
    ranks = []
    for block in _blocks(np.arange(len(texts)), len(images)):
        similarity = texts[block] @ images.T  # [b, i]
        own = np.take_along_axis(similarity, image_of[block][:, None], axis=1)
        ranks.append((similarity >= own).sum(axis=1) - 1)
    return np.concatenate(ranks)


def _blocks(queries: _Indices, n_answers: int) -> Iterator[_Indices]:
    rows = max(1, _BLOCK_VALUES // n_answers)
    return (queries[start : start + rows] for start in range(0, len(queries), rows))


def _recalls(ranks: _Indices) -> tuple[float, float, float]:
    r1, r5, r10 = (100 * float((ranks < k).mean()) for k in (1, 5, 10))
    return r1, r5, r10
