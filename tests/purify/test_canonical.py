from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import latent_features
from sklearn.decomposition import PCA

from nccleaner.purify import canonical as module
from nccleaner.purify.canonical import FOLDS, CanonicalMap, CanonicalView
from nccleaner.purify.standardise import Standardised, Standardiser

SHRINKAGE = 0.7


@pytest.fixture
def pool():
    """200 pairs of 8 and 6 features with folds and weights."""
    images, texts = latent_features(200, width=8, latent=4)
    texts = texts[:, :6].contiguous()
    generator = torch.Generator().manual_seed(3)
    folds = torch.randint(FOLDS, (200,), generator=generator)
    weights = torch.rand(200, generator=generator)
    images, texts = Standardiser.fit(images)(images), Standardiser.fit(texts)(texts)
    return images, texts, folds, weights


def fit(images, texts, folds, weights, shrinkage=SHRINKAGE):
    return CanonicalMap.fit(
        Standardised(images), Standardised(texts), weights=weights, folds=folds, shrinkage=shrinkage
    )


def by_definition(images, texts, weights):
    """Directions and correlations from the generalised eigenproblem, in float64."""
    from scipy.linalg import eigh

    images, texts, weights = (x.double().numpy() for x in (images, texts, weights))
    covariances = []
    for rows in (images, texts):
        own = rows.T @ rows / len(rows)
        covariances.append(own + SHRINKAGE * np.trace(own) / len(own) * np.eye(len(own)))
    of_images, of_texts = covariances
    cross = (images * weights[:, None]).T @ texts
    squared, directions = eigh(cross @ np.linalg.solve(of_texts, cross.T), of_images)
    squared, directions = squared[::-1][:6], directions[:, ::-1][:, :6]
    correlations = squared**0.5
    others = np.linalg.solve(of_texts, cross.T @ directions) / correlations
    return directions * correlations**0.25, others * correlations**0.25


def cosine(a, b):
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_a_single_map_is_canonical_correlation_analysis_by_its_definition(pool):
    images, texts, _, weights = pool
    fitted = fit(images, texts, None, weights)
    mine = cosine((images @ fitted.of_images[0]).numpy(), (texts @ fitted.of_texts[0]).numpy())

    to_images, to_texts = by_definition(images, texts, weights)
    expected = cosine(images.double().numpy() @ to_images, texts.double().numpy() @ to_texts)
    np.testing.assert_allclose(mine, expected, atol=1e-5)


def test_of_very_wide_features_the_components_of_least_variance_are_left_out(pool, monkeypatch):
    images, texts, _, weights = pool
    monkeypatch.setattr(module, "_COMPONENTS", 3)
    fitted = fit(images, texts, None, weights)

    for rows, map_ in ((images, fitted.of_images[0]), (texts, fitted.of_texts[0])):
        kept = torch.from_numpy(PCA(3).fit(rows.numpy()).components_)
        torch.testing.assert_close(kept.T @ kept @ map_, map_, atol=1e-5, rtol=0)
        assert torch.linalg.matrix_rank(map_) == 3


def test_the_map_that_judges_a_pair_does_not_change_with_who_it_is_paired_with(pool):
    images, texts, folds, weights = pool
    own = torch.nonzero(folds == folds[17])[:, 0]
    exchanged = texts.clone()
    exchanged[own] = texts[own.roll(1)]

    before, after = fit(*pool), fit(images, exchanged, folds, weights)

    fold, other = int(folds[17]), (int(folds[17]) + 1) % FOLDS
    torch.testing.assert_close(before.of_images[fold], after.of_images[fold], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(before.of_images[other], after.of_images[other], atol=1e-2)


def test_pairs_that_nobody_believes_teach_nothing_of_what_belongs_together(pool):
    images, texts, folds, _ = pool
    weights = (torch.arange(200) < 150).float()
    exchanged = torch.cat([texts[:150], texts[150:].roll(7, dims=0)])

    one, other = fit(images, texts, folds, weights), fit(images, exchanged, folds, weights)

    cosines = (each.cosines(images, texts, folds=folds) for each in (one, other))
    torch.testing.assert_close(*cosines, atol=1e-5, rtol=0)


def test_rounding_does_not_turn_directions_round():
    images, texts = latent_features(500, width=200, latent=100)
    images, texts = Standardiser.fit(images)(images), Standardiser.fit(texts)(texts)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(1))  # rounds otherwise

    before = fit(images, texts, None, torch.ones(500))
    after = fit(images[order], texts[order], None, torch.ones(500))

    torch.testing.assert_close(before.of_images, after.of_images, atol=1e-2, rtol=0)
    torch.testing.assert_close(before.of_texts, after.of_texts, atol=1e-2, rtol=0)


def test_shrinkage_follows_the_believed_pairs(pool):
    images, texts, _, weights = pool
    by_itself = fit(images, texts, None, weights, shrinkage=None)
    by_hand = fit(images, texts, None, weights, shrinkage=8 * (14 / float(weights.sum())) ** 0.5)

    torch.testing.assert_close(by_itself.of_images, by_hand.of_images)


@pytest.mark.parametrize("believed", [0.0, 1.0])
def test_no_weight_and_folds_without_a_pair_give_finite_maps(pool, believed):
    images, texts, _, _ = pool
    only_one_fold = torch.zeros(200, dtype=torch.int64)

    fitted = fit(images, texts, only_one_fold, torch.full((200,), believed))
    cosines = fitted.cosines(images, texts, folds=only_one_fold)

    assert all(torch.isfinite(values).all() for values in (cosines, fitted.of_images))
    assert not cosines.any()  # nobody else to learn from


def test_features_that_do_not_vary_give_finite_embeddings(pool):
    images, texts, _, weights = pool
    flat = torch.ones_like(images)

    view = CanonicalView.fit(flat, texts, weights=weights, shrinkage=None)

    assert torch.isfinite(view.embed_images(flat)).all()
    assert torch.isfinite(view.embed_texts(texts)).all()


def test_a_view_brings_matched_pairs_together_and_reads_the_first_columns_alone(pool):
    images, texts, _, _ = pool
    raw = 100 * images + 7
    view = CanonicalView.fit(raw, texts, weights=torch.ones(200), shrinkage=None)
    wider = torch.cat([raw, torch.randn(200, 3)], dim=1)
    image, text = view.embed_images(wider), view.embed_texts(texts)

    assert image.shape == text.shape == (200, view.width) == (200, 6)
    torch.testing.assert_close(image.norm(dim=1), torch.ones(200))
    torch.testing.assert_close(image, view.embed_images(raw))
    cosines = image @ text.T
    assert (cosines.diagonal()[:, None] > cosines).float().mean() > 0.9


def test_tensors_restore_a_view_exactly(pool):
    images, texts, _, weights = pool
    view = CanonicalView.fit(images, texts, weights=weights, shrinkage=None)
    restored = CanonicalView.from_tensors(view.tensors())

    assert torch.equal(restored.embed_images(images), view.embed_images(images))
    assert torch.equal(restored.embed_texts(texts), view.embed_texts(texts))
