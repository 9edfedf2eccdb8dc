from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import latent_features

from nccleaner.purify.neighbours import References

SHARPNESS = 8.0


@pytest.fixture
def references():
    images, texts = latent_features(60, width=7, latent=3, seed=1)
    identities = torch.arange(60) // 2  # every image twice
    weights = torch.rand(60, generator=torch.Generator().manual_seed(2))
    return References.build(images, texts, identities=identities, weights=weights)


def by_hand(near, compared, weights, same, neighbours):
    """One pair: similarities to references sorted in plain Python."""
    order = sorted((i for i in range(len(near)) if not same[i]), key=lambda i: -near[i])
    says = [(np.exp(SHARPNESS * near[i]) * weights[i], compared[i]) for i in order[:neighbours]]
    return sum(say * value for say, value in says) / sum(say for say, _ in says)


@pytest.mark.parametrize("neighbours", [1, 5, 58])
def test_agreement_is_that_of_brute_force_in_float64(references, neighbours):
    images, texts = latent_features(40, width=7, latent=3, seed=5)
    identities = torch.arange(40)

    by_image, by_text = references.agreement(
        images, texts, identities=identities, neighbours=neighbours
    )

    weights = references.weights.double().numpy()
    for row in range(40):
        same = (references.identities == identities[row]).numpy()
        image, text = (x[row].double().numpy() for x in (images, texts))
        to_images = references.images.double().numpy() @ image / np.linalg.norm(image)
        to_texts = references.texts.double().numpy() @ text / np.linalg.norm(text)
        assert by_image[row] == pytest.approx(
            by_hand(to_images, to_texts, weights, same, neighbours), abs=1e-5
        )
        assert by_text[row] == pytest.approx(
            by_hand(to_texts, to_images, weights, same, neighbours), abs=1e-5
        )


def test_a_pair_of_the_references_does_not_see_itself_nor_its_image(references):
    rows = slice(10, 12)  # the two references of image 5
    queries = (references.images[rows], references.texts[rows])
    identities = references.identities[rows]

    texts = references.texts.clone()
    texts[rows] = -texts[rows]
    images = references.images.clone()
    images[rows] = -images[rows]
    changed = References(images, texts, references.identities, references.weights)

    before = references.agreement(*queries, identities=identities, neighbours=10)
    after = changed.agreement(*queries, identities=identities, neighbours=10)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


def test_nothing_is_said_where_all_references_show_the_same_image():
    images, texts = latent_features(20, width=7, latent=3)
    references = References.build(
        images, texts, identities=torch.zeros(20, dtype=torch.int64), weights=torch.ones(20)
    )

    agreement = references.agreement(
        images, texts, identities=torch.zeros(20, dtype=torch.int64), neighbours=5
    )

    assert not agreement[0].any()
    assert not agreement[1].any()


def test_references_that_nobody_believes_say_nothing(references):
    silent = References(references.images, references.texts, references.identities, torch.zeros(60))
    images, texts = latent_features(5, width=7, latent=3)

    agreement = silent.agreement(images, texts, identities=torch.full((5,), -1), neighbours=10)

    assert not agreement[0].any()
    assert not agreement[1].any()
