from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist, mean, pstdev

import pytest
import torch
from networks import latent_features
from sklearn.decomposition import TruncatedSVD
from torch.nn import functional as F

from nccleaner.purify import neighbours as module
from nccleaner.purify.neighbours import References
from nccleaner.purify.standardise import Standardised


@pytest.fixture
def pool():
    return latent_features(60, width=7, latent=3, seed=1)


@pytest.fixture
def references(pool):
    weights = torch.rand(60, generator=torch.Generator().manual_seed(2))
    return build(*pool, identities=torch.arange(60) // 2, weights=weights)  # every image twice


def build(images, texts, *, identities, weights):
    return References.build(
        Standardised(images),
        Standardised(texts),
        chosen=torch.arange(len(images)),
        identities=identities,
        weights=weights,
    )


def by_hand(near, compared, weights, same, neighbours):
    """One pair, in plain Python."""
    others = [i for i in range(len(near)) if not same[i]]
    share = min(neighbours / len(near), 0.5)
    height = NormalDist().inv_cdf(1 - share)
    threshold = mean(near[i] for i in others) + height * pstdev(near[i] for i in others)
    says = [(max(near[i] - threshold, 0) * weights[i], compared[i]) for i in others]
    total = sum(say for say, _ in says)
    return sum(say * value for say, value in says) / total if total else 0.0


@pytest.mark.parametrize("neighbours", [2, 5, 58])
def test_agreement_is_that_of_brute_force_in_float64(pool, references, neighbours):
    """All components are a rotation, which changes no cosine."""
    images, texts = (F.normalize(x) for x in latent_features(40, width=7, latent=3, seed=5))
    all_images, all_texts = (F.normalize(x).double() for x in pool)
    identities = torch.arange(40)

    by_image, by_text = references.agreement(
        images, texts, identities=identities, neighbours=neighbours
    )

    assert by_image.count_nonzero() > 20
    weights = references.weights.double().tolist()
    for row in range(40):
        same = (references.identities == identities[row]).tolist()
        to_images = (all_images @ images[row].double()).tolist()
        to_texts = (all_texts @ texts[row].double()).tolist()
        assert by_image[row] == pytest.approx(
            by_hand(to_images, to_texts, weights, same, neighbours), abs=1e-4
        )
        assert by_text[row] == pytest.approx(
            by_hand(to_texts, to_images, weights, same, neighbours), abs=1e-4
        )


def test_neighbours_are_sought_by_the_principal_components(pool, monkeypatch):
    monkeypatch.setattr(module, "_COMPONENTS", 3)
    references = build(*pool, identities=torch.arange(60), weights=torch.ones(60))

    for rows, mine, components in (
        (pool[0], references.images, references.of_images),
        (pool[1], references.texts, references.of_texts),
    ):
        assert components.shape == (7, 3)
        oracle = TruncatedSVD(3, algorithm="arpack", random_state=0).fit_transform(rows.numpy())
        expected = F.normalize(torch.from_numpy(oracle))
        torch.testing.assert_close(mine @ mine.T, expected @ expected.T, atol=1e-4, rtol=0)
    queries = latent_features(40, width=7, latent=3, seed=5)
    nobody = torch.full((40,), -1)
    agreement = references.agreement(*queries, identities=nobody, neighbours=10)
    components = references.of_images, references.of_texts
    projected = (rows @ own @ own.T for rows, own in zip(queries, components, strict=True))
    again = references.agreement(*projected, identities=nobody, neighbours=10)
    torch.testing.assert_close(again, agreement)


def test_rounded_directions_change_little(references):
    images, texts = (F.normalize(x) for x in latent_features(40, width=7, latent=3, seed=5))
    identities = torch.arange(40)

    exact = references.agreement(images, texts, identities=identities, neighbours=10)
    rounded = references.to(torch.bfloat16).agreement(
        images.bfloat16(), texts.bfloat16(), identities=identities, neighbours=10
    )

    for one, other in zip(exact, rounded, strict=True):
        assert other.dtype == torch.float32
        assert (one - other).abs().mean() < 0.01


@pytest.mark.parametrize("neighbours", [10, 100])
def test_about_so_many_references_are_neighbours(neighbours):
    """Of random directions, as many stand out as of a normal distribution."""
    generator = torch.Generator().manual_seed(0)
    images, queries = (torch.randn(n, 64, generator=generator) for n in (500, 20))
    each = torch.eye(500)  # a caption that is like one reference's alone tells whether it counts
    references = References(
        torch.eye(64), torch.eye(500), F.normalize(images), each, torch.arange(500), torch.ones(500)
    )

    by_image, _ = references.agreement(
        F.normalize(queries).repeat_interleave(500, dim=0),
        each.repeat(20, 1),
        identities=torch.full((10_000,), -1),
        neighbours=neighbours,
    )

    assert by_image.count_nonzero() / 20 == pytest.approx(neighbours, rel=0.2)


def test_a_pair_of_the_references_does_not_see_itself_nor_its_image(pool, references):
    rows = slice(10, 12)  # the two references of image 5
    queries = (pool[0][rows], pool[1][rows])
    identities = references.identities[rows]

    texts = references.texts.clone()
    texts[rows] = -texts[rows]
    images = references.images.clone()
    images[rows] = -images[rows]
    changed = replace(references, images=images, texts=texts)

    before = references.agreement(*queries, identities=identities, neighbours=10)
    after = changed.agreement(*queries, identities=identities, neighbours=10)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


def test_nothing_is_said_where_all_references_show_the_same_image():
    images, texts = latent_features(20, width=7, latent=3)
    references = build(
        images, texts, identities=torch.zeros(20, dtype=torch.int64), weights=torch.ones(20)
    )

    agreement = references.agreement(
        images, texts, identities=torch.zeros(20, dtype=torch.int64), neighbours=5
    )

    assert not agreement[0].any()
    assert not agreement[1].any()


def test_references_that_nobody_believes_say_nothing(references):
    silent = replace(references, weights=torch.zeros(60))
    images, texts = latent_features(5, width=7, latent=3)

    agreement = silent.agreement(images, texts, identities=torch.full((5,), -1), neighbours=10)

    assert not agreement[0].any()
    assert not agreement[1].any()
