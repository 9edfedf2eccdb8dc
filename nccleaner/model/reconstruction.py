"""Images from their parts: the generator and the two discriminators of mFSR's reconstruction.

All are those of DCGAN (Radford et al. 2016) for 64x64 pixels [P]. Images are RGB in [-1, 1],
[b, 3, 64, 64]. A discriminator gives logits; the higher, the more it holds an image for real, or
for one that agrees with the condition. The losses are functions of these logits (METHOD 1):

    L_D1 = −log D1(x) − log(1 − D1(x′))
    L_D2 = −log D2(x) − ½[log(1 − D2(x′)) + log(1 − D2(x″))]
    L_G  = −log D1(x′) − log D2(x′)

x is the true image, x′ the generated one, x″ another true one.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from nccleaner.model.mfsr import Parts

# How far the condition of D2 strays from the true image [O].
_MAX_ZOOM = 0.2
_MAX_SHIFT = 0.1
_MAX_LIGHT = 0.2


class Generator(nn.Module):
    """x′ = G([modality; semantic; specific]).

    Args:
        joint_width: Width d of each part.
        width: Channels of the last hidden layer; 64 in DCGAN.

    Shapes: three times [b, d] → [b, 3, 64, 64] in [-1, 1].
    """

    def __init__(self, *, joint_width: int, width: int) -> None:
        super().__init__()
        channels = [8 * width, 4 * width, 2 * width, width]
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(3 * joint_width, channels[0], 4, bias=False),  # [b, 8w, 4, 4]
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(),
        ]
        for before, after in pairwise(channels):
            layers += [
                nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        layers += [nn.ConvTranspose2d(width, 3, 4, stride=2, padding=1), nn.Tanh()]
        self.layers = nn.Sequential(*layers).apply(_initialise)

    def forward(self, parts: Parts) -> Float[Tensor, "b 3 64 64"]:
        """Generates an image for each row of the parts."""
        joined = torch.cat(parts, dim=1)  # [b, 3d]
        images: Tensor = self.layers(joined[:, :, None, None])
        return images


class Discriminator(nn.Module):
    """D1 looks at one image, D2 at two: the condition and the one to judge.

    Args:
        images: How many images it looks at.
        width: Channels of the first hidden layer; 64 in DCGAN.

    Shapes: `images` times [b, 3, 64, 64] → logits [b].
    """

    def __init__(self, *, images: int, width: int) -> None:
        super().__init__()
        channels = [width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = [
            nn.Conv2d(3 * images, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
        ]
        for before, after in pairwise(channels):
            layers += [
                nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.LeakyReLU(0.2),
            ]
        layers.append(nn.Conv2d(channels[-1], 1, 4))  # [b, 1, 1, 1]
        self.layers = nn.Sequential(*layers).apply(_initialise)

    def forward(self, *images: Float[Tensor, "b 3 64 64"]) -> Float[Tensor, " b"]:
        """Judges images, or pairs of images."""
        logits: Tensor = self.layers(torch.cat(images, dim=1)).flatten()
        return logits


def _initialise(layer: nn.Module) -> None:
    """Draws the weights as DCGAN does."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, std=0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, mean=1.0, std=0.02)


def realness_loss(real: Float[Tensor, " b"], generated: Float[Tensor, " b"]) -> Float[Tensor, ""]:
    """L_D1 from the logits of true and of generated images."""
    return F.softplus(-real).mean() + F.softplus(generated).mean()


def agreement_loss(
    true: Float[Tensor, " b"],
    generated: Float[Tensor, " b"],
    other: Float[Tensor, " b"],
    *,
    differs: Bool[Tensor, " b"],
) -> Float[Tensor, ""]:
    """L_D2 from the logits of three images beside the same condition.

    Args:
        true: Of the true image.
        generated: Of the generated one.
        other: Of another true one.
        differs: Whether that is another one indeed; where not, its term is left out.
    """
    of_others = (F.softplus(other) * differs).sum() / differs.sum().clamp(min=1)
    return F.softplus(-true).mean() + (F.softplus(generated).mean() + of_others) / 2


def generator_loss(
    realness: Float[Tensor, " b"], agreement: Float[Tensor, " b"]
) -> Float[Tensor, ""]:
    """L_G from what D1 and D2 say of the generated images."""
    return F.softplus(-realness).mean() + F.softplus(-agreement).mean()


def augment(images: Float[Tensor, "b 3 64 64"]) -> Float[Tensor, "b 3 64 64"]:
    """Mirrors, zooms, shifts and lights images at random: the condition of D2 [O].

    The true image itself would let D2 compare pixels instead of contents. Draws from torch's global
    generator of the images' device.
    """
    count = len(images)

    def drawn(*shape: int) -> Tensor:
        return torch.rand(count, *shape, device=images.device, dtype=images.dtype)

    zoom = 1 - _MAX_ZOOM * drawn()
    mirror = torch.where(drawn() < 0.5, -1.0, 1.0)
    view = images.new_zeros(count, 2, 3)
    view[:, 0, 0], view[:, 1, 1] = mirror * zoom, zoom
    view[:, :, 2] = _MAX_SHIFT * (2 * drawn(2) - 1)
    grid = F.affine_grid(view, list(images.shape), align_corners=False)
    seen = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    contrast = 1 + _MAX_LIGHT * (2 * drawn(1, 1, 1) - 1)
    brightness = _MAX_LIGHT * (2 * drawn(1, 1, 1) - 1)
    return (contrast * seen + brightness).clamp(-1, 1)
