from __future__ import annotations

import torch
from sklearn.decomposition import PCA

from nccleaner.purify.standardise import Standardised, Standardiser, directions


def test_standardiser_scales_features_and_does_not_blow_up_constants():
    features = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    features = features * torch.tensor([1.0, 10.0, 1e-6]) + torch.tensor([5.0, -3.0, 2.0])

    standard = Standardiser.fit(features)(features)

    torch.testing.assert_close(standard.mean(dim=0), torch.zeros(3), atol=1e-4, rtol=0)
    deviation = standard.std(dim=0)
    assert 0.9 < deviation[0] < 1.01
    assert 0.9 < deviation[1] < 1.01
    assert deviation[2] < 1e-3


def test_directions_have_length_1_and_zeros_stay():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]])

    torch.testing.assert_close(directions(rows), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_components_are_those_of_scikit_learn():
    rows = torch.randn(300, 5, generator=torch.Generator().manual_seed(1))
    rows = (rows - rows.mean(dim=0)) @ torch.randn(5, 5, generator=torch.Generator().manual_seed(2))
    oracle = PCA().fit(rows.numpy())

    standardised = Standardised(rows)

    assert standardised.components.dtype == torch.float64
    cosines = standardised.components.T @ torch.from_numpy(oracle.components_).double().T
    torch.testing.assert_close(cosines.abs(), torch.eye(5).double(), atol=1e-4, rtol=0)
    variances = torch.from_numpy(oracle.explained_variance_).double() * 299 / 300
    torch.testing.assert_close(standardised.variances, variances, atol=0, rtol=1e-4)
