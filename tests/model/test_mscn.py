from __future__ import annotations

import math

import pytest
import torch
from networks import build_meta_net


def test_the_logit_is_the_residual_on_the_cosine():
    net = build_meta_net(vectors=4, hidden=3)
    vector, cosine = torch.tensor([0.5, -0.1, 0.7, 0.5], dtype=torch.float64), 0.3
    inner = net.hidden.weight.tolist(), net.hidden.bias.tolist()
    residual = 0.0
    for row, bias, out in zip(*inner, net.out.weight[0].tolist(), strict=True):
        residual += out * max(
            0.0, bias + sum(w * h for w, h in zip(row, vector.tolist(), strict=True))
        )
    expected = residual + net.cosine_weight.item() * cosine + net.bias.item()
    logit = net(vector[None], torch.tensor([cosine], dtype=torch.float64))
    assert logit.item() == pytest.approx(expected, rel=1e-12)


def test_a_fresh_network_is_a_plain_dual_encoder():
    net = build_meta_net(residual=False)
    cosines = torch.linspace(-1, 1, 9, dtype=torch.float64)
    vectors = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    corrected = net(vectors, cosines).sigmoid()
    expected = [1 / (1 + math.exp(-10 * (c - 0.25))) for c in cosines.tolist()]
    assert corrected.tolist() == pytest.approx(expected)


def test_pairs_and_all_pairs_of_a_batch_are_judged_alike():
    net = build_meta_net()
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(3, 5, 4, dtype=torch.float64, generator=generator)
    cosines = torch.rand(3, 5, dtype=torch.float64, generator=generator)
    all_pairs = net(vectors, cosines)
    assert all_pairs.shape == (3, 5)
    torch.testing.assert_close(all_pairs[1], net(vectors[1], cosines[1]))


def test_every_parameter_has_a_gradient():
    net = build_meta_net()
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(20, 4, dtype=torch.float64, generator=generator)
    net(vectors, torch.rand(20, dtype=torch.float64, generator=generator)).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())
