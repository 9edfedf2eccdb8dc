from __future__ import annotations

import numpy as np
import pytest
import torch
from baselines.ridge import FOLDS, RidgeMap
from networks import latent_features

PENALTY = 0.7


@pytest.fixture
def pool():
    """200 pairs of 8 and 6 features with folds and weights."""
    images, texts = latent_features(200, width=8, latent=4)
    generator = torch.Generator().manual_seed(3)
    folds = torch.randint(FOLDS, (200,), generator=generator)
    weights = torch.rand(200, generator=generator)
    return images, texts[:, :6].contiguous(), folds, weights


def fit(images, texts, folds, weights, penalty=PENALTY):
    return RidgeMap.fit(images, texts, folds=folds, weights=weights, penalty=penalty)


def least_squares(source, target, weights):
    """The penalised map as plain least squares with extra rows, in float64."""
    source, target, weights = (x.double().numpy() for x in (source, target, weights))
    strength = PENALTY * max(weights.sum(), 1.0)
    root = np.sqrt(weights)[:, None]
    ridge = np.sqrt(strength) * np.eye(source.shape[1])
    left = np.concatenate([source * root, ridge])
    right = np.concatenate([target * root, np.zeros((source.shape[1], target.shape[1]))])
    return np.linalg.lstsq(left, right, rcond=None)[0]


def cosine(a, b):
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_cosines_are_those_of_maps_that_leave_the_pairs_fold_out(pool):
    images, texts, folds, weights = pool
    in_text, in_image = fit(*pool).cosines(images, texts, folds=folds)

    for fold in range(FOLDS):
        rows, others = folds == fold, folds != fold
        to_text = least_squares(images[others], texts[others], weights[others])
        to_image = least_squares(texts[others], images[others], weights[others])
        i, t = images[rows].double().numpy(), texts[rows].double().numpy()
        np.testing.assert_allclose(in_text[rows], cosine(i @ to_text, t), atol=1e-5)
        np.testing.assert_allclose(in_image[rows], cosine(t @ to_image, i), atol=1e-5)


def test_the_map_that_judges_a_pair_does_not_change_with_its_caption(pool):
    images, texts, folds, weights = pool
    changed = texts.clone()
    changed[17] = 100 * torch.randn(6, generator=torch.Generator().manual_seed(1))

    before, after = fit(*pool), fit(images, changed, folds, weights)

    own = int(folds[17])
    assert torch.equal(before.to_text[own], after.to_text[own])
    assert torch.equal(before.to_image[own], after.to_image[own])
    assert not torch.equal(before.to_text[(own + 1) % FOLDS], after.to_text[(own + 1) % FOLDS])


def test_pairs_that_nobody_believes_teach_nothing(pool):
    images, texts, folds, _ = pool
    weights = (torch.arange(200) < 150).float()
    noise = texts.clone()
    noise[150:] = 50.0

    with_noise = fit(images, noise, folds, weights)
    without = fit(images[:150], texts[:150], folds[:150], weights[:150])

    torch.testing.assert_close(with_noise.to_text, without.to_text)
    torch.testing.assert_close(with_noise.to_image, without.to_image)


@pytest.mark.parametrize("believed", [0.0, 1.0])
def test_no_weight_and_folds_without_a_pair_give_finite_maps(pool, believed):
    images, texts, _, _ = pool
    only_one_fold = torch.zeros(200, dtype=torch.int64)

    fitted = fit(images, texts, only_one_fold, torch.full((200,), believed))
    cosines = fitted.cosines(images, texts, folds=only_one_fold)

    assert all(torch.isfinite(values).all() for values in (*cosines, fitted.to_text))
    assert not cosines[0].any()  # nobody else to learn from
