"""Fine-tuning: its step against one written out, what it may change, and that it learns."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import ALL_LOSSES, build_main_net, build_meta_net, rows
from torch import nn

from nccleaner.errors import TrainingError
from nccleaner.train.finetune import FineTuning, Tuned
from nccleaner.train.objective import NoisyBatch, main_loss
from nccleaner.train.pairs import Features, Pairs

IMAGES, WIDTH, SIDE = 60, 6, 3


class Backbone(nn.Module):
    """A linear layer over all pixels."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.linear = nn.Linear(SIDE * SIDE * 3, WIDTH)

    def forward(self, pixels):
        return self.linear(pixels.flatten(1).float() / 255)


@pytest.fixture(scope="module")
def pixels():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (IMAGES, SIDE, SIDE, 3), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def texts(pixels):
    """Captions say the blue channel: all of it, and nothing else."""
    generator = torch.Generator().manual_seed(1)
    projection = torch.randn(SIDE * SIDE, WIDTH, generator=generator)
    return (pixels[..., 2].flatten(1).float() / 255 - 0.5) @ projection


def build_networks(count=2, dropout=0.0):
    size = {"dtype": torch.float32}
    return [
        Tuned(
            Backbone(7),
            build_main_net(features=WIDTH, dropout=dropout, seed=seed, **size),
            build_meta_net(seed=seed, **size),
        )
        for seed in range(count)
    ]


def build_tuning(networks, pixels, texts, **changes):
    pool = rows(torch.arange(40))
    settings = {
        "networks": networks,
        "pixels": pixels,
        "texts": texts,
        "pool": pool,
        "weights": [torch.ones(40) for _ in networks],
        "held_out": rows(torch.arange(40, 60)),
        "loss_weights": ALL_LOSSES,
        "epochs": 2,
        "batch_size": 20,
        "learning_rate": 1e-3,
        "precision": "float32",
        "seed": 0,
    }
    return FineTuning(**settings | changes)


def test_a_step_is_the_main_loss_through_the_backbone(pixels, texts):
    """Images and captions that repeat in the batch, written out without sharing their features."""
    pool = Pairs(torch.tensor([3, 5, 3, 8, 9, 8]), torch.tensor([0, 1, 2, 3, 1, 4]))
    weights = torch.linspace(0.2, 1, 6)
    (tuned,) = build_networks(1)
    backbone, main_net, meta_net = copy.deepcopy(tuned)
    tuning = build_tuning(
        [tuned], pixels, texts, pool=pool, weights=[weights], epochs=1, batch_size=6
    )
    (report,) = tuning.epochs(lambda: None)

    parameters = [*backbone.parameters(), *main_net.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=1e-3)
    table = torch.zeros(IMAGES, WIDTH).index_copy(
        0, pool.image_rows[[0, 1, 3, 4]], backbone(pixels[pool.image_rows[[0, 1, 3, 4]]])
    )
    batch = NoisyBatch(Features(table, texts), pool, weights, warm_up=False)
    loss = main_loss(main_net, meta_net.requires_grad_(False), batch, loss_weights=ALL_LOSSES)
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 2.0)
    optimiser.step()

    assert report.main_loss == pytest.approx(loss.item(), rel=1e-5)
    for mine, expected in ((tuned.backbone, backbone), (tuned.main_net, main_net)):
        for one, other in zip(mine.parameters(), expected.parameters(), strict=True):
            # Adam's first step is the sign of the gradient: sums in another order change little.
            assert torch.allclose(one, other, atol=1e-5)


def test_it_learns_what_the_frozen_backbone_did_not_show(pixels, texts):
    networks = build_networks()
    tuning = build_tuning(networks, pixels, texts, epochs=40, learning_rate=1e-2)
    before = tuning.selection()
    reports = list(tuning.epochs(lambda: None))
    assert reports[-1].selection == tuning.selection() > before + 0.1
    assert reports[-1].main_loss < reports[0].main_loss


def test_pairs_that_are_not_believed_teach_nothing(pixels, texts):
    only_ranking = dict.fromkeys(("modality", "specific"), 0.0)
    losses = type(ALL_LOSSES)(
        **{name: getattr(ALL_LOSSES, name) for name in ALL_LOSSES.__slots__} | only_ranking
    )
    networks = build_networks(1)
    before = copy.deepcopy(networks[0].backbone.state_dict())
    tuning = build_tuning(networks, pixels, texts, weights=[torch.zeros(40)], loss_weights=losses)
    list(tuning.epochs(lambda: None))
    for name, tensor in networks[0].backbone.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_each_network_has_its_own_backbone_and_the_meta_networks_stay(pixels, texts):
    networks = build_networks()
    metas = [copy.deepcopy(network.meta_net.state_dict()) for network in networks]
    steps = []
    list(build_tuning(networks, pixels, texts).epochs(lambda: steps.append(1)))
    first, second = (network.backbone.linear.weight for network in networks)
    assert not torch.equal(first, second)
    assert len(steps) == 2 * 2 * 2  # epochs, networks, batches
    for network, before in zip(networks, metas, strict=True):
        assert all(
            torch.equal(before[name], value)
            for name, value in network.meta_net.state_dict().items()
        )


def test_the_same_seed_gives_the_same_weights(pixels, texts):
    def train(seed):
        networks = build_networks(dropout=0.3)
        with torch.random.fork_rng():
            torch.manual_seed(5)
            list(build_tuning(networks, pixels, texts, seed=seed).epochs(lambda: None))
        return networks[1].backbone.linear.weight

    assert torch.equal(train(0), train(0))
    assert not torch.equal(train(0), train(1))


def test_losses_that_are_no_numbers_stop_it(pixels, texts):
    tuning = build_tuning(build_networks(), pixels, texts * float("nan"))
    with pytest.raises(TrainingError, match="epoch 1"):
        next(tuning.epochs(lambda: None))
