from __future__ import annotations

import torch

from nccleaner.purify.standardise import Standardiser, directions


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
