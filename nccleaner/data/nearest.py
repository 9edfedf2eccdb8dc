"""Which captions read alike: captions in, for each the nearest others out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nccleaner.data.noise import Ids, Indices, classes_of

if TYPE_CHECKING:
    from scipy.sparse import csr_array

NEAREST = 10  # captions that count as near

# Similarities held at a time: 64 MiB of float32, however many captions there are.
_BLOCK_VALUES = 1 << 24

_WORD = r"\w+"


def word_vectors(captions: Sequence[str]) -> csr_array[Any, tuple[int, int]]:
    """Returns the TF-IDF weights of each caption's words, [n, words], rows of length 1.

    Needs no network and no weights, and gives the same on every machine; it knows no synonyms, and
    no words in scripts that put no spaces between them.
    """
    from scipy.sparse import csr_array
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not any(any(character.isalnum() for character in caption) for caption in captions):
        return csr_array(np.zeros((len(captions), 1), np.float32))  # scikit-learn wants a word
    words = TfidfVectorizer(token_pattern=_WORD, sublinear_tf=True, dtype=np.float32)
    return csr_array(words.fit_transform(captions))


def nearest_captions(
    vectors: npt.NDArray[np.float32] | csr_array[Any, tuple[int, int]],
    *,
    image_ids: Ids,
    captions: Sequence[str],
) -> Indices:
    """Finds for each pair the `NEAREST` other pairs whose captions are most like its own.

    Pairs of the same image, and those whose caption is the same text, are left out: exchanging
    captions with them would mismatch nothing. Compares all with all, so the time grows with the
    square of n: 37 s for 30,000 captions on one core.

    Args:
        vectors: [n, d], a caption each; similarity is the inner product, and must be above 0.
        image_ids: [n], equal where the images are.
        captions: [n].

    Returns:
        [n, NEAREST] indices, nearest first, −1 where there are fewer. Ties go to the lower index.
    """
    images, texts = classes_of(image_ids), classes_of(captions)
    n = len(images)
    result = np.full((n, NEAREST), -1, dtype=np.int64)
    rows = max(1, _BLOCK_VALUES // max(n, 1))
    for start in range(0, n, rows):
        block = slice(start, start + rows)
        products = vectors[block] @ vectors.T  # [b, n]
        similarity = products if isinstance(products, np.ndarray) else products.toarray()
        similarity[images[block, None] == images] = 0.0
        similarity[texts[block, None] == texts] = 0.0
        place = max(n - NEAREST, 0)
        # Which of several equal values a partition brings forward is left open; the values are not.
        least = np.partition(similarity, place, axis=1)[:, place]
        for row, (values, floor) in enumerate(zip(similarity, least, strict=True), start):
            candidates = np.flatnonzero((values >= floor) & (values > 0))
            order = np.argsort(-values[candidates], kind="stable")[:NEAREST]
            result[row, : len(order)] = candidates[order]
    return result
