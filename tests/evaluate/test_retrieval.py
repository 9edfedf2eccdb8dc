from __future__ import annotations

import numpy as np
import pytest

from nccleaner.errors import InputError
from nccleaner.evaluate import retrieval
from nccleaner.evaluate.retrieval import mean_over_folds, retrieval_metrics


def embeddings(n_images, n_captions, seed=0, noise=1.5):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(n_images, 8))
    image_of = rng.integers(0, n_images, n_captions)
    texts = images[image_of] + noise * rng.normal(size=(n_captions, 8))
    images, texts = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (images, texts))
    return images, texts, image_of


def brute_force(images, texts, image_of):
    """Sorts every list of answers in plain Python."""
    recalls = []
    to_text = [
        [image_of[c] == i for c in sorted(range(len(texts)), key=lambda c: -images[i] @ texts[c])]
        for i in sorted(set(image_of))
    ]
    to_image = [
        [image_of[c] == i for i in sorted(range(len(images)), key=lambda i: -images[i] @ texts[c])]
        for c in range(len(texts))
    ]
    for answers in (to_text, to_image):
        recalls += [100 * sum(any(a[:k]) for a in answers) / len(answers) for k in (1, 5, 10)]
    return recalls


def six(found):
    return [
        *(found.image_to_text_r1, found.image_to_text_r5, found.image_to_text_r10),
        *(found.text_to_image_r1, found.text_to_image_r5, found.text_to_image_r10),
    ]


@pytest.mark.parametrize(("n_images", "n_captions"), [(1, 1), (40, 40), (30, 150), (60, 20)])
@pytest.mark.parametrize("block_values", [1, 97, 1 << 24])
def test_recalls_agree_with_sorting(monkeypatch, n_images, n_captions, block_values):
    monkeypatch.setattr(retrieval, "_BLOCK_VALUES", block_values)
    arrays = embeddings(n_images, n_captions)
    found = retrieval_metrics(*arrays)
    assert six(found) == pytest.approx(brute_force(*arrays))
    assert found.rsum == pytest.approx(sum(six(found)))
    assert found.captions == n_captions
    assert found.images == len(set(arrays[2]))


def test_the_order_of_captions_does_not_matter():
    images, texts, image_of = embeddings(30, 150)
    order = np.random.default_rng(0).permutation(150)
    assert retrieval_metrics(images, texts[order], image_of[order]) == retrieval_metrics(
        images, texts, image_of
    )


@pytest.mark.parametrize("folds", [1, 3, 7])
def test_the_mean_over_folds_is_that_of_parts_measured_alone(folds):
    images, texts, _ = embeddings(30, 150)
    image_of = np.random.default_rng(1).permutation(np.arange(150) % 30)
    found = mean_over_folds(images, texts, image_of, folds=folds)
    recalls = []
    for part in np.array_split(np.arange(30), folds):
        mine = [c for c in range(150) if image_of[c] in part]
        numbers = {image: number for number, image in enumerate(part)}
        recalls.append(brute_force(images[part], texts[mine], [numbers[image_of[c]] for c in mine]))
    assert six(found) == pytest.approx(np.mean(recalls, axis=0))
    assert found.rsum == pytest.approx(sum(six(found)))
    assert (found.images, found.captions) == (30, 150)


def test_fewer_images_than_folds_are_refused():
    with pytest.raises(InputError, match="2 images cannot be divided into 3 folds"):
        mean_over_folds(np.eye(2), np.eye(2), [0, 1], folds=3)


def test_perfect_embeddings_reach_600():
    found = retrieval_metrics(np.eye(12), np.repeat(np.eye(12), 5, axis=0), np.arange(60) // 5)
    assert found.rsum == 600


def test_a_tie_with_a_wrong_answer_counts_against():
    images, texts = np.ones((20, 4), dtype=np.float16) / 2, np.ones((20, 4), dtype=np.float16) / 2
    assert retrieval_metrics(images, texts, np.arange(20)).rsum == 0
    # An image's own captions do not stand in each other's way.
    assert retrieval_metrics(images[:1], texts, np.zeros(20, dtype=int)).rsum == 600


@pytest.mark.parametrize(
    ("images", "texts", "image_of", "said"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), [0, 1], "Expected shapes"),
        (np.ones((2, 3)), np.ones((2, 3)), [0], "Expected shapes"),
        (np.ones((2, 3)), np.ones((0, 3)), [], "Expected shapes"),
        (np.ones(3), np.ones((1, 3)), [0], "Expected shapes"),
        (np.ones((2, 3)), np.ones((2, 3)), [0, 2], "Expected captions of images 0 to 1"),
        (np.ones((2, 3)), np.ones((2, 3)), [-1, 0], "Expected captions of images 0 to 1"),
        (np.ones((2, 3)), np.full((2, 3), np.nan), [0, 1], "not finite"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(images, texts, image_of, said):
    with pytest.raises(InputError, match=said):
        retrieval_metrics(images, texts, image_of)
