from __future__ import annotations

import pytest
import torch
from networks import build_main_net

from nccleaner.model.mfsr import Separation


def features(count, *, seed, width=6):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator, dtype=torch.float64)


def test_all_parts_have_length_1():
    image, text = build_main_net()(features(7, seed=0), features(7, seed=1))
    for part in (*image, *text):
        torch.testing.assert_close(part.norm(dim=-1), torch.ones(7, dtype=torch.float64))


def test_the_semantic_part_keeps_a_linear_path():
    separation = Separation(joint_width=6).double()
    torch.nn.init.zeros_(separation.mlp[-1].weight)
    torch.nn.init.zeros_(separation.mlp[-1].bias)
    joint = features(4, seed=0)
    semantic = separation(joint).semantic
    torch.testing.assert_close(semantic, joint / joint.norm(dim=1, keepdim=True))


def test_the_parts_are_what_the_layers_say():
    torch.manual_seed(0)
    separation = Separation(joint_width=3).double()
    joint = features(2, seed=0, width=3)
    first, last = separation.mlp[1], separation.mlp[3]

    def gelu(x):
        return x * (1 + torch.erf(x / 2**0.5)) / 2

    stacked = gelu(gelu(joint) @ first.weight.T + first.bias) @ last.weight.T + last.bias
    modality, semantic, specific = stacked[:, :3], joint + stacked[:, 3:6], stacked[:, 6:]
    for found, expected in zip(separation(joint), (modality, semantic, specific), strict=True):
        torch.testing.assert_close(found, expected / expected.norm(dim=1, keepdim=True))


def test_images_and_captions_are_separated_alone_and_together():
    net = build_main_net()
    images, texts = features(3, seed=0), features(5, seed=1)
    image, text = net(images, texts)
    torch.testing.assert_close(image, net.separate_images(images))
    torch.testing.assert_close(text, net.separate_texts(texts))
    assert image.semantic.shape == (3, 5)
    assert text.semantic.shape == (5, 5)


def test_a_row_does_not_depend_on_the_rest_of_the_batch():
    net = build_main_net()
    images = features(6, seed=0)
    torch.testing.assert_close(
        net.separate_images(images).semantic[2:3], net.separate_images(images[2:3]).semantic
    )


def test_temperature_starts_where_it_should_and_is_bounded():
    net = build_main_net()
    assert net.inverse_temperature.item() == pytest.approx(10.0, rel=1e-6)
    torch.nn.init.constant_(net.log_inverse_temperature, 20.0)
    net.clamp_temperature()
    assert net.inverse_temperature.item() == pytest.approx(100.0, rel=1e-6)
