from __future__ import annotations

import io

import pytest
import torch
from cotraining import build_training, run, weights_of


def test_equal_seeds_give_equal_networks_bit_by_bit():
    first, second = build_training(epochs=3), build_training(epochs=3)
    assert run(first) == run(second)
    for one, two in zip(weights_of(first), weights_of(second), strict=True):
        assert torch.equal(one, two)


class Killed(BaseException):
    """Ends a training from outside."""


def saved(training):
    torch.save(training.state_dict(), buffer := io.BytesIO())
    return buffer.getvalue()


@pytest.fixture(scope="module")
def whole():
    """A training that was not interrupted: 12 steps an epoch, two of four epochs warm up."""
    training = build_training(epochs=4)
    return run(training), weights_of(training)


@pytest.mark.parametrize("steps", [5, 13, 24, 41])
def test_a_training_that_is_interrupted_anywhere_goes_on_bit_by_bit(whole, steps):
    expected, weights = whole
    states, reports = [], []
    interrupted = build_training(epochs=4)
    countdown = iter(range(steps))

    def on_step():
        if next(countdown, None) is None:
            raise Killed

    def train():
        for report in interrupted.epochs(on_step):
            reports.append(report)
            states.append(saved(interrupted))

    torch.manual_seed(0)
    with pytest.raises(Killed):
        train()

    resumed = build_training(epochs=4)
    torch.manual_seed(7 if states else 0)
    if states:
        resumed.load_state_dict(torch.load(io.BytesIO(states[-1]), weights_only=True))
    reports += resumed.epochs(lambda: None)

    assert len(states) == steps // 12
    assert reports == expected
    for one, two in zip(weights, weights_of(resumed), strict=True):
        assert torch.equal(one, two)
    left = build_training(epochs=4)
    left.load_state_dict(resumed.state_dict())
    assert list(left.epochs(lambda: None)) == []
