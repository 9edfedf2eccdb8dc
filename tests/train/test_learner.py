from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from networks import ALL_LOSSES, build_main_net, build_meta_net, latent_features, rows

from nccleaner.model.towers import GRUTower
from nccleaner.train.learner import Learner
from nccleaner.train.objective import NoisyBatch, main_loss, pair_logits, trusted_loss
from nccleaner.train.pairs import Features
from nccleaner.train.rates import Rates

FEATURES = latent_features(40, width=6, latent=3, dtype=torch.float64)
MATCHED, MISMATCHED = rows(range(20, 28)), rows(range(28, 34), [29, 30, 31, 32, 33, 28])
TOTAL = 20


def build_learner(
    *, dropout=0.0, seed=0, weight_decay=0.1, averaging=0.9, precision="float32", **rates
):
    plain = {
        "schedule": "cosine",
        "main": 1e-2,
        "meta": 5e-3,
        "rise_steps": 0,
        "fall_at": 0.6,
        "total_steps": TOTAL,
    }
    return Learner(
        main_net=build_main_net(dropout=dropout, seed=seed),
        meta_net=build_meta_net(),
        loss_weights=ALL_LOSSES,
        rates=Rates(**(plain | rates)),
        weight_decay=weight_decay,
        averaging=averaging,
        precision=precision,
    )


def batch(k=0, *, warm_up=False, features=FEATURES):
    weights = torch.linspace(0.5, 1, 10, dtype=torch.float64)
    return NoisyBatch(features, rows(range(k, k + 10)), weights, warm_up)


def step(learner, k=0, *, gradient="exact", **changes):
    return learner.step(
        batch(k, **changes),
        matched=MATCHED,
        mismatched=MISMATCHED,
        hard_mismatched=True,
        gradient=gradient,
    )


def state(*nets):
    return copy.deepcopy([list(net.state_dict().values()) for net in nets])


def equal(left, right):
    return all(
        torch.equal(a, b)
        for one, two in zip(left, right, strict=True)
        for a, b in zip(one, two, strict=True)
    )


@pytest.mark.parametrize("gradient", ["direct", "exact"])
@pytest.mark.parametrize("warm_up", [True, False])
def test_a_step_moves_every_parameter_of_both_networks(gradient, warm_up):
    learner = build_learner()
    before = state(learner.main_net, learner.meta_net)
    losses = step(learner, gradient=gradient, warm_up=warm_up)
    after = state(learner.main_net, learner.meta_net)
    for old, new in zip(before, after, strict=True):
        assert not any(torch.equal(a, b) for a, b in zip(old, new, strict=True))
    assert all(loss.isfinite() and not loss.requires_grad for loss in losses)


def test_steps_are_those_of_the_paper_with_plain_optimisers():
    """First θ by Adam along ∇_θ L_meta, then W by AdamW along ∇_W L at the new θ, clipped at 2."""
    learner = build_learner()
    main_net, meta_net = copy.deepcopy((learner.main_net, learner.meta_net))
    main_optimiser = torch.optim.AdamW(main_net.parameters(), weight_decay=0.1, foreach=False)
    meta_optimiser = torch.optim.Adam(meta_net.parameters(), lr=5e-3, foreach=False)
    clipped = 0
    for k in range(4):
        found = step(learner, k, gradient="direct")

        meta = trusted_loss(
            main_net,
            meta_net,
            features=FEATURES,
            matched=MATCHED,
            mismatched=MISMATCHED,
            hard_mismatched=True,
        )
        meta_optimiser.zero_grad()
        meta.backward()
        meta_optimiser.step()
        loss = main_loss(main_net, meta_net, batch(k), loss_weights=ALL_LOSSES)
        main_optimiser.zero_grad()
        loss.backward()
        gradients = [parameter.grad for parameter in main_net.parameters()]
        length = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
        clipped += length > 2
        for gradient in gradients:
            gradient.mul_(min(1.0, 2 / length))
        main_optimiser.param_groups[0]["lr"] = 1e-2 * (1 + math.cos(math.pi * k / TOTAL)) / 2
        main_optimiser.step()

        assert found[0].item() == pytest.approx(loss.item())
        assert found[1].item() == pytest.approx(meta.item())
    assert clipped > 0
    for net, own in ((main_net, learner.main_net), (meta_net, learner.meta_net)):
        for expected, parameter in zip(net.parameters(), own.parameters(), strict=True):
            torch.testing.assert_close(parameter, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("warm_up", [True, False])
def test_without_a_meta_gradient_only_the_main_network_learns(warm_up):
    learner = build_learner()
    main_before, meta_before = state(learner.main_net), state(learner.meta_net)
    _, meta_loss = step(learner, gradient="none", warm_up=warm_up)
    assert equal(meta_before, state(learner.meta_net))
    assert not equal(main_before, state(learner.main_net))
    assert meta_loss > 0


def test_warm_up_takes_the_direct_gradient():
    first, second = build_learner(), build_learner()
    step(first, gradient="direct", warm_up=True)
    step(second, gradient="exact", warm_up=True)
    assert equal(state(first.meta_net), state(second.meta_net))


def test_equal_seeds_give_equal_networks():
    states = []
    for seed in (1, 1, 2):
        learner = build_learner(dropout=0.5)
        torch.manual_seed(seed)
        for k in range(3):
            step(learner, k)
        states.append(state(learner.main_net, learner.meta_net, learner.average_net))
    assert equal(states[0], states[1])
    assert not equal(states[0], states[2])


def test_training_lowers_both_losses():
    learner = build_learner()
    losses = torch.tensor([step(learner) for _ in range(TOTAL)])
    assert (losses[-1] < 0.8 * losses[0]).all()


def test_without_averaging_the_last_weights_score():
    learner = build_learner(averaging=0.0)
    for k in range(2):
        step(learner, k)
        assert equal(state(learner.average_net), state(learner.main_net))


def test_the_average_follows_the_weights_faster_while_it_is_young():
    learner = build_learner(averaging=0.5)
    average = torch.nn.utils.parameters_to_vector(learner.main_net.parameters())
    for k in range(1, 16):
        step(learner, k)
        decay = min(0.5, k / (k + 10))
        new = torch.nn.utils.parameters_to_vector(learner.main_net.parameters())
        average = decay * average + (1 - decay) * new.detach()
        found = torch.nn.utils.parameters_to_vector(learner.average_net.parameters())
        torch.testing.assert_close(found, average)


def test_both_networks_move_at_the_rates_of_the_schedule():
    """Adam's first step has the length of the rate, so the rates can be read off the weights."""
    for warm_up, meta_rate in ((True, 1e-2 / 4), (False, 5e-3)):
        learner = build_learner(schedule="step", rise_steps=4, weight_decay=0.0)
        main, meta = learner.main_net.log_inverse_temperature.item(), learner.meta_net.bias.item()
        step(learner, warm_up=warm_up)
        moved = abs(learner.main_net.log_inverse_temperature.item() - main)
        assert moved == pytest.approx(1e-2 / 4, rel=1e-3)
        assert abs(learner.meta_net.bias.item() - meta) == pytest.approx(meta_rate, rel=1e-3)


def test_a_learner_goes_on_from_its_state_as_if_it_had_never_stopped():
    whole = build_learner()
    for k in range(3):
        step(whole, k)
    torch.save(whole.state_dict(), buffer := io.BytesIO())
    buffer.seek(0)
    resumed = build_learner(seed=5)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    for k in range(3, 6):
        assert step(whole, k) == step(resumed, k)
    nets = ("main_net", "meta_net", "average_net")
    states = [state(*(getattr(one, name) for name in nets)) for one in (whole, resumed)]
    assert equal(*states)
    assert whole.main_rate == resumed.main_rate


def in_float32(learner):
    for net in (learner.main_net, learner.meta_net, learner.average_net):
        net.float()
    return learner


SINGLE = Features(FEATURES.images.float(), FEATURES.texts.float())


@pytest.mark.parametrize("gradient", ["direct", "exact"])
def test_bf16_rounds_the_losses_and_nothing_else(gradient):
    plain = in_float32(build_learner(averaging=0.0))
    rounded = in_float32(build_learner(averaging=0.0, precision="bf16"))
    losses = [step(learner, gradient=gradient, features=SINGLE) for learner in (plain, rounded)]
    for expected, found in zip(*losses, strict=True):
        assert found != expected
        assert found.item() == pytest.approx(expected.item(), rel=0.03)
    for parameter in (*rounded.main_net.parameters(), *rounded.meta_net.parameters()):
        assert parameter.dtype == parameter.grad.dtype == torch.float32
    assert rounded.embed_images(SINGLE).dtype == torch.float32


def test_finite_differences_are_not_rounded():
    found = []
    for precision in ("float32", "bf16"):
        learner = in_float32(build_learner(precision=precision))
        step(learner, gradient="finite_difference", features=SINGLE)
        found.append(state(learner.meta_net))
    assert equal(*found)


def test_optimisers_made_anew_forget_their_moments():
    learner = build_learner(weight_decay=0.0)
    for _ in range(5):
        step(learner)
    learner.reset_optimisers()
    before = learner.meta_net.bias.item()
    step(learner)
    assert abs(learner.meta_net.bias.item() - before) == pytest.approx(5e-3, rel=1e-3)


def test_scores_are_those_of_the_averaged_network_without_dropout():
    learner = build_learner(dropout=0.5)
    step(learner)
    images, texts = learner.embed_images(FEATURES), learner.embed_texts(FEATURES)
    pairs = rows([0, 3, 3, 39], [5, 3, 0, 1])
    found = learner.logits(images, texts, pairs)
    net = copy.deepcopy(learner.average_net).eval()
    image, text = net(FEATURES.images[pairs.image_rows], FEATURES.texts[pairs.text_rows])
    expected = pair_logits(net, learner.meta_net, image.semantic, text.semantic)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad
    assert torch.equal(images, learner.embed_images(FEATURES))


def test_more_rows_than_one_scan_takes_come_back_in_order():
    learner = build_learner()
    features = latent_features(9000, width=6, latent=3, dtype=torch.float64)
    images, texts = learner.embed_images(features), learner.embed_texts(features)
    pairs = rows(torch.arange(9000).flip(0), torch.arange(9000))
    logits = learner.logits(images, texts, pairs)
    assert images.shape == texts.shape == (9000, 5)
    last = slice(8990, 9000)
    torch.testing.assert_close(
        images[last], learner.embed_images(Features(features.images[last], features.texts))
    )
    torch.testing.assert_close(
        logits[last], learner.logits(images, texts, pairs.take(torch.arange(8990, 9000)))
    )


def test_features_that_are_not_finite_show_in_the_losses():
    images = FEATURES.images.clone()
    images[3, 2] = math.inf
    main, _ = step(build_learner(), features=Features(images, FEATURES.texts))
    assert not main.isfinite()


@pytest.mark.parametrize("warm_up", [True, False])
@pytest.mark.parametrize("text", ["frozen", "gru"])
@pytest.mark.parametrize("gradient", ["direct", "exact", "none"])
def test_a_step_never_waits_for_the_device(gradient, text, warm_up):
    """The meta device has no values to wait for: what asks for one fails."""
    texts = FEATURES.texts
    learner = build_learner(dropout=0.3)
    if text == "gru":
        texts = torch.ones(40, 5, dtype=torch.long)
        tower = GRUTower(vocabulary=9, embedding_width=4, layers=2, joint_width=5, dropout=0.0)
        learner.main_net.text_tower = tower.double()
        learner.average_net.text_tower = copy.deepcopy(tower)
    for name in ("main_net", "meta_net", "average_net"):
        setattr(learner, name, getattr(learner, name).to("meta"))
    features = Features(FEATURES.images.to("meta"), texts.to("meta"))
    drawn = NoisyBatch(features, rows(range(10)), torch.ones(10, device="meta"), warm_up)
    losses = learner.step(
        drawn,
        matched=MATCHED,
        mismatched=MISMATCHED,
        hard_mismatched=True,
        gradient=gradient,
    )
    assert all(loss.device.type == "meta" for loss in losses)
    with pytest.raises(RuntimeError):
        losses[0].item()
