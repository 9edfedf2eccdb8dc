from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import random_parts
from torch import nn

from nccleaner.model.mfsr import Parts
from nccleaner.model.reconstruction import (
    Discriminator,
    Generator,
    agreement_loss,
    augment,
    generator_loss,
    realness_loss,
)

REAL, GENERATED, OTHER = torch.randn(
    3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64
)
# A logit as far from 0 as sigmoid alone would lose to rounding.
REAL[0], GENERATED[1] = -40.0, 40.0


def log_sigmoid(logits: torch.Tensor) -> np.ndarray:
    """log σ(x), in the widest floats that numpy has."""
    return -np.log1p(np.exp(-logits.numpy().astype(np.longdouble)))


def images(count: int, *, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 64, 64, generator=generator) * 2 - 1


def test_the_generator_gives_images_that_depend_on_all_three_parts():
    torch.manual_seed(0)
    net = Generator(joint_width=5, width=2).double().eval()
    parts = random_parts(4, 5)
    whole = net(parts)
    assert whole.shape == (4, 3, 64, 64)
    assert whole.abs().max() < 1
    for name in Parts._fields:
        moved = net(parts._replace(**{name: getattr(parts, name).roll(1, 0)}))
        assert not torch.allclose(moved, whole)


@pytest.mark.parametrize("count", [1, 2])
def test_a_discriminator_looks_at_all_its_images(count):
    torch.manual_seed(0)
    net = Discriminator(images=count, width=2).eval()
    shown = [images(3, seed=n) for n in range(count)]
    logits = net(*shown)
    assert logits.shape == (3,)
    for place in range(count):
        other = [images(3, seed=9) if n == place else x for n, x in enumerate(shown)]
        assert not torch.equal(net(*other), logits)
    with pytest.raises(RuntimeError):
        net(*shown, images(3))


def test_the_networks_are_those_of_dcgan():
    """4x4 kernels that double or halve; channels 512, 256, 128, 64; weights from N(0, 0.02)."""
    torch.manual_seed(0)
    for net, kind, first in (
        (Generator(joint_width=100, width=64), nn.ConvTranspose2d, 300),
        (Discriminator(images=2, width=64), nn.Conv2d, 6),
    ):
        layers = [layer for layer in net.modules() if isinstance(layer, kind)]
        inside = (512, 256, 128, 64) if kind is nn.ConvTranspose2d else (64, 128, 256, 512)
        assert [layer.in_channels for layer in layers] == [first, *inside]
        assert all(layer.kernel_size == (4, 4) for layer in layers)
        assert layers[1].weight.std().item() == pytest.approx(0.02, rel=0.02)
        norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
        assert len(norms) == 4 - (kind is nn.Conv2d)


def test_losses_of_discriminators_and_generator_are_those_of_the_method():
    """L_D1, L_D2 and L_G with log D and log(1 − D) written out."""
    of_realness = -log_sigmoid(REAL) - log_sigmoid(-GENERATED)
    assert realness_loss(REAL, GENERATED).item() == pytest.approx(float(of_realness.mean()))

    all_differ = torch.ones(7, dtype=torch.bool)
    wrong = (log_sigmoid(-GENERATED) + log_sigmoid(-OTHER)) / 2
    found = agreement_loss(REAL, GENERATED, OTHER, differs=all_differ)
    assert found.item() == pytest.approx(float((-log_sigmoid(REAL) - wrong).mean()))

    of_generator = -log_sigmoid(GENERATED) - log_sigmoid(REAL)
    assert generator_loss(GENERATED, REAL).item() == pytest.approx(float(of_generator.mean()))


def test_another_image_that_is_the_same_is_left_out():
    differs = torch.tensor([True, False, True, True, False, True, True])
    others = -log_sigmoid(-OTHER)[differs.numpy()].mean()
    expected = -log_sigmoid(REAL).mean() + (-log_sigmoid(-GENERATED).mean() + others) / 2
    found = agreement_loss(REAL, GENERATED, OTHER, differs=differs)
    assert found.item() == pytest.approx(float(expected))
    assert agreement_loss(REAL, GENERATED, OTHER, differs=~differs & differs).isfinite()


def test_a_condition_is_a_view_of_its_image():
    shown = torch.nn.functional.interpolate(images(40)[:, :, :4, :4], size=64, mode="bicubic")
    shown = shown.clamp(-1, 1)
    torch.manual_seed(0)
    seen = augment(shown)
    torch.manual_seed(0)
    assert torch.equal(augment(shown), seen)
    assert not torch.equal(augment(shown), seen)  # another draw
    assert seen.shape == shown.shape
    assert seen.abs().max() <= 1
    mirrored = torch.stack([shown, shown.flip(-1)])
    distance = (seen[None, :, None] - mirrored[:, None]).square().mean((3, 4, 5))  # [2, seen, of]
    nearest = distance.amin(dim=0).argmin(dim=1)
    assert (nearest == torch.arange(40)).float().mean() > 0.9
    ways = distance.diagonal(dim1=1, dim2=2).argmin(dim=0)
    assert 10 <= int(ways.sum()) <= 30  # about half are mirrored
    assert not any(torch.equal(one, other) for one, other in zip(seen, shown, strict=True))
