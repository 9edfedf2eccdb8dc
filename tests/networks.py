"""Small networks, and synthetic pairs from a linear latent space, for the tests of learning."""

from __future__ import annotations

import torch

from nccleaner.model.mfsr import MainNet, Parts
from nccleaner.model.mscn import MetaNet
from nccleaner.model.towers import FeatureTower
from nccleaner.train.objective import LossWeights
from nccleaner.train.pairs import Features, Pairs

ALL_LOSSES = LossWeights(
    info_nce=1.0,
    hinge=1.0,
    modality=0.3,
    specific=0.5,
    margin=0.2,
    adaptive_margin=True,
    modality_margin=0.1,
)


def build_main_net(
    *, features=6, joint=5, vectors=4, dropout=0.0, text_tower=None, seed=0, dtype=torch.float64
):
    torch.manual_seed(seed)
    towers = [
        FeatureTower(feature_width=features, joint_width=joint, dropout=dropout) for _ in range(2)
    ]
    return MainNet(
        image_tower=towers[0],
        text_tower=text_tower or towers[1],
        joint_width=joint,
        similarity_width=vectors,
        temperature=0.1,
    ).to(dtype)


def build_meta_net(*, vectors=4, hidden=3, seed=1, dtype=torch.float64, residual=True):
    torch.manual_seed(seed)
    net = MetaNet(similarity_width=vectors, hidden_width=hidden)
    if residual:
        torch.nn.init.normal_(net.out.weight)
    return net.to(dtype)


def random_parts(count, width, *, seed=0):
    """Three parts of length 1 for each of `count` inputs, [count, width]."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(3, count, width, generator=generator, dtype=torch.float64)
    return Parts(*torch.nn.functional.normalize(drawn, dim=-1))


def latent_features(count, *, width=32, latent=8, noise=0.3, seed=0, dtype=torch.float32):
    """Images and captions that see one latent vector through two maps; row i belongs to row i."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    hidden = normal(count, latent)
    images, texts = (
        hidden @ normal(latent, width) + noise * normal(count, width) for _ in range(2)
    )
    return Features(images.to(dtype), texts.to(dtype))


def rows(images, texts=None):
    return Pairs(torch.as_tensor(images), torch.as_tensor(images if texts is None else texts))
