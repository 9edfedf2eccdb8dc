"""Networks of a shape; those that were fine-tuned read their own part of an image's features."""

from __future__ import annotations

import torch

from nccleaner.train.networks import Architecture, build_networks, read_own_backbone

ARCHITECTURE = Architecture(
    image_width=6,
    text_width=5,
    vocabulary=0,
    embedding_width=8,
    gru_layers=1,
    joint_width=8,
    similarity_width=4,
    meta_hidden_width=3,
    dropout=0.0,
    temperature=0.1,
)


def test_the_seed_decides_the_weights_and_the_global_state_stays():
    before = torch.get_rng_state()
    first, again, other = (build_networks(ARCHITECTURE, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert not torch.equal(first.image_tower.linear.weight, other.image_tower.linear.weight)


@torch.no_grad()
def test_each_network_reads_its_own_backbone():
    generator = torch.Generator().manual_seed(0)
    frozen, *own = torch.randn(3, 4, 6, generator=generator)
    beside = torch.cat([frozen, *own], dim=1)
    for index, mine in enumerate(own):
        main_net, _ = build_networks(ARCHITECTURE, seed=index)
        expected = main_net.separate_images(mine).semantic
        assert torch.equal(
            main_net.separate_images(beside).semantic, main_net.separate_images(frozen).semantic
        )
        read_own_backbone(main_net, index)
        assert torch.equal(main_net.separate_images(beside).semantic, expected)
