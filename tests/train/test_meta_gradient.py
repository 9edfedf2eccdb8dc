"""The oracle is the whole look-ahead objective L_meta(W − η ∇_W L(W, θ), θ) in float64.

The virtual step is written into a copy of the network, and every element of θ moved up and down.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import get_args

import pytest
import torch
from networks import ALL_LOSSES, build_main_net, build_meta_net, latent_features, rows

from nccleaner.model.towers import GRUTower
from nccleaner.train.meta_gradient import MetaGradient, meta_gradient, virtual_step
from nccleaner.train.objective import NoisyBatch, main_loss, trusted_loss
from nccleaner.train.pairs import Features, Pairs

STEP = 0.01


class Problem:
    """A pool's and a trusted batch's loss of one pair of networks."""

    def __init__(
        self,
        text,
        *,
        warm_up=False,
        dropout=0.0,
        losses=ALL_LOSSES,
        dtype=torch.float64,
        device="cpu",
    ):
        images, texts = latent_features(24, width=6, latent=3, dtype=dtype)
        text_tower = None
        if text == "gru":
            generator = torch.Generator().manual_seed(0)
            texts = torch.randint(1, 9, (24, 5), generator=generator)
            texts[::2, 3:] = 0
            torch.manual_seed(3)
            text_tower = GRUTower(
                vocabulary=9, embedding_width=3, layers=2, joint_width=5, dropout=dropout
            )
        self.losses = losses
        self.features = Features(images.to(device), texts.to(device))
        self.main_net = build_main_net(text_tower=text_tower, dropout=dropout, dtype=dtype).to(
            device
        )
        self.meta_net = build_meta_net(dtype=dtype).to(device)
        weights = torch.linspace(0.3, 1, 10, dtype=dtype, device=device)
        self.batch = NoisyBatch(self.features, rows_on(device, range(10)), weights, warm_up)
        self.matched = rows_on(device, range(10, 18))
        self.mismatched = rows_on(device, range(18, 24), [19, 20, 21, 22, 23, 18])
        self.theta = list(self.meta_net.parameters())

    def noisy(self, main_net):
        return main_loss(main_net, self.meta_net, self.batch, loss_weights=self.losses)

    def trusted(self, main_net):
        return trusted_loss(
            main_net,
            self.meta_net,
            features=self.features,
            matched=self.matched,
            mismatched=self.mismatched,
            hard_mismatched=True,
        )

    def gradient(self, kind, step=STEP):
        gradients = meta_gradient(
            kind,
            main_net=self.main_net,
            meta_parameters=self.theta,
            noisy_loss=self.noisy,
            trusted_loss=self.trusted,
            virtual_step_size=step,
        )
        return torch.cat([gradient.flatten() for gradient in gradients])

    def look_ahead(self, step):
        """L_meta(W − η ∇_W L(W, θ), θ) at the present θ."""
        stepped = copy.deepcopy(self.main_net)
        self.noisy(stepped).backward()
        with torch.no_grad():
            for parameter in stepped.parameters():
                if parameter.grad is not None:
                    parameter.sub_(step * parameter.grad)
            return self.trusted(stepped).item()

    def differences(self, step=STEP, by=1e-5):
        """∂/∂θ of `look_ahead` by central differences, every element of θ."""
        found = []
        for parameter in self.theta:
            for index in range(parameter.numel()):
                entry = parameter.data.view(-1)
                value = entry[index].item()
                entry[index] = value + by
                up = self.look_ahead(step)
                entry[index] = value - by
                down = self.look_ahead(step)
                entry[index] = value
                found.append((up - down) / (2 * by))
        return torch.tensor(found, dtype=torch.float64)


def relative(difference, reference):
    return (difference.norm() / reference.norm()).item()


def rows_on(device, images, texts=None):
    pairs = rows(images, texts)
    return Pairs(pairs.image_rows.to(device), pairs.text_rows.to(device))


@pytest.fixture(params=["frozen", "gru"])
def problem(request):
    return Problem(request.param)


def test_exact_is_the_derivative_of_the_whole_look_ahead_objective(problem):
    exact, expected = problem.gradient("exact"), problem.differences()
    assert relative(exact - expected, expected) < 1e-6
    # The test would not see a missing second-order term if it were that small.
    assert relative(exact - problem.gradient("direct"), exact) > 1e-3


def test_exact_agrees_in_warm_up_too():
    problem = Problem("frozen", warm_up=True)
    expected = problem.differences()
    assert relative(problem.gradient("exact") - expected, expected) < 1e-6


def test_direct_is_the_derivative_without_a_virtual_step(problem):
    expected = problem.differences(step=0.0)
    assert relative(problem.gradient("direct") - expected, expected) < 1e-6


def test_exact_tends_to_direct_as_the_step_shrinks(problem):
    direct = problem.gradient("direct")
    apart = [relative(problem.gradient("exact", step) - direct, direct) for step in (1e-6, 1e-8)]
    assert apart[1] == pytest.approx(apart[0] / 100, rel=0.01)
    assert torch.equal(problem.gradient("exact", 0.0), direct)


def test_the_virtual_step_is_plain_gradient_descent(problem):
    stepped = copy.deepcopy(problem.main_net)
    optimiser = torch.optim.SGD(stepped.parameters(), lr=STEP)
    problem.noisy(stepped).backward()
    optimiser.step()
    found = virtual_step(problem.main_net, problem.noisy, step_size=STEP)
    assert found.keys() == dict(stepped.named_parameters()).keys()
    for name, parameter in stepped.named_parameters():
        torch.testing.assert_close(found[name], parameter)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("text", ["frozen", "gru"])
def test_finite_differences_agree_with_exact(text, dropout):
    problem = Problem(text, dropout=dropout)
    found, states = [], []
    for kind in ("exact", "finite_difference"):
        torch.manual_seed(1)
        found.append(problem.gradient(kind))
        states.append(torch.get_rng_state())
    exact, differences = found
    assert relative(differences - exact, exact) < 1e-8
    assert torch.equal(*states)  # so the step that follows hides the same too


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_finite_differences_agree_with_exact_through_cudnn(dropout):
    for dtype, tolerance in ((torch.float64, 1e-4), (torch.float32, 0.05)):
        problem = Problem("gru", dropout=dropout, dtype=dtype, device="cuda")
        torch.manual_seed(1)
        exact = problem.gradient("exact")
        torch.manual_seed(1)
        differences = problem.gradient("finite_difference")
        assert relative(differences - exact, exact) < tolerance


@pytest.mark.parametrize("text", ["frozen", "gru"])
def test_finite_differences_survive_float32_and_what_rounds_more(text):
    exact = Problem(text).gradient("exact")
    problem = Problem(text, dtype=torch.float32)
    plain = problem.gradient("finite_difference")
    assert relative(plain.double() - exact, exact) < 1e-3
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = problem.gradient("finite_difference")
            assert torch.is_autocast_enabled("cpu")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(rounded, plain)


@pytest.mark.parametrize("kind", ["exact", "finite_difference"])
def test_a_noisy_loss_without_the_meta_network_leaves_one_term(kind):
    problem = Problem("frozen", losses=replace(ALL_LOSSES, hinge=0.0))
    expected = problem.differences()
    assert relative(problem.gradient(kind) - expected, expected) < 1e-6


def test_none_is_zero_but_evaluates_the_trusted_loss(problem, monkeypatch):
    seen = []
    trusted = problem.trusted
    monkeypatch.setattr(problem, "trusted", lambda net: seen.append(trusted(net)) or seen[-1])
    assert not problem.gradient("none").any()
    assert [loss.item() for loss in seen] == [pytest.approx(trusted(problem.main_net).item())]
    assert not seen[0].requires_grad


@pytest.mark.parametrize("kind", get_args(MetaGradient))
def test_neither_network_is_touched(problem, kind):
    nets = (problem.main_net, problem.meta_net)
    before = copy.deepcopy([net.state_dict() for net in nets])
    problem.gradient(kind)
    for net, state in zip(nets, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
        assert all(parameter.grad is None for parameter in net.parameters())
        assert all(isinstance(p, torch.nn.Parameter) for p in net.parameters())
