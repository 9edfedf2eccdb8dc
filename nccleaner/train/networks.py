"""The shape of the two networks as plain data, and networks of that shape."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from nccleaner.model.mfsr import MainNet
from nccleaner.model.mscn import MetaNet
from nccleaner.model.towers import FeatureTower, GRUTower


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What must be known to build a main and a meta network.

    Attributes:
        image_width: Width f of an image feature, of one encoder.
        text_width: Width l of a caption feature; 0 where captions come as tokens.
        vocabulary: Token ids; 0 where captions come as features.
        embedding_width: Width of a token's embedding.
        gru_layers: Layers of the GRU over tokens.
        joint_width: Width d of the joint space.
        similarity_width: Width s of a similarity vector.
        meta_hidden_width: Hidden width of the meta network.
        dropout: Of the frozen features.
        temperature: Start of InfoNCE's temperature.
        fine_tuned: Whether images come as the frozen feature and, beside it, that of each network's
            own backbone.
    """

    image_width: int
    text_width: int
    vocabulary: int
    embedding_width: int
    gru_layers: int
    joint_width: int
    similarity_width: int
    meta_hidden_width: int
    dropout: float
    temperature: float
    fine_tuned: bool = False


def build_networks(architecture: Architecture, *, seed: int) -> tuple[MainNet, MetaNet]:
    """Builds a main and a meta network with weights drawn by seed.

    The global random state is as before afterwards.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        main_net = MainNet(
            image_tower=FeatureTower(
                feature_width=architecture.image_width,
                joint_width=architecture.joint_width,
                dropout=architecture.dropout,
            ),
            text_tower=_text_tower(architecture),
            joint_width=architecture.joint_width,
            similarity_width=architecture.similarity_width,
            temperature=architecture.temperature,
        )
        meta_net = MetaNet(
            similarity_width=architecture.similarity_width,
            hidden_width=architecture.meta_hidden_width,
        )
    return main_net, meta_net


def read_own_backbone(main_net: MainNet, index: int) -> None:
    """Makes the network at `index` read its own backbone's feature, of images of `fine_tuned`."""
    tower = main_net.image_tower
    assert isinstance(tower, FeatureTower)
    tower.first = (1 + index) * tower.linear.in_features


def _text_tower(architecture: Architecture) -> nn.Module:
    if architecture.text_width:
        return FeatureTower(
            feature_width=architecture.text_width,
            joint_width=architecture.joint_width,
            dropout=architecture.dropout,
        )
    return GRUTower(
        vocabulary=architecture.vocabulary,
        embedding_width=architecture.embedding_width,
        layers=architecture.gru_layers,
        joint_width=architecture.joint_width,
        dropout=architecture.dropout,
    )
