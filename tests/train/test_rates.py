"""The learning rates against the closed forms of the two schedules."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from nccleaner.train.rates import Rates

COSINE = Rates(schedule="cosine", main=0.4, meta=0.05, rise_steps=0, fall_at=0.6, total_steps=50)
STEP = replace(COSINE, schedule="step")


def test_the_cosine_falls_from_the_peak_to_a_hundredth():
    rates = [COSINE.main_at(step) for step in range(60)]
    assert rates[0] == 0.4
    assert rates[25] == pytest.approx(0.2)
    assert rates == sorted(rates, reverse=True)
    assert rates[10] == pytest.approx(0.4 * math.cos(math.pi / 10) ** 2)
    assert rates[-1] == rates[50] == pytest.approx(0.004)


@pytest.mark.parametrize("rates", [COSINE, STEP])
def test_the_main_rate_rises_in_even_steps(rates):
    slow = replace(rates, rise_steps=4)
    shares = [slow.main_at(step) / rates.main_at(step) for step in range(6)]
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_with_the_cosine_the_meta_rate_stays():
    assert {COSINE.meta_at(step, warm_up=step < 10) for step in range(60)} == {0.05}


def test_both_rates_of_the_step_schedule_fall_once_to_a_tenth():
    main = [STEP.main_at(step) for step in range(50)]
    meta = [STEP.meta_at(step, warm_up=False) for step in range(50)]
    assert main == [0.4] * 30 + [pytest.approx(0.04)] * 20
    assert meta == [0.05] * 30 + [pytest.approx(0.005)] * 20


def test_with_the_step_schedule_both_networks_warm_up_at_one_rate():
    slow = replace(STEP, rise_steps=4)
    for step in range(10):
        assert slow.meta_at(step, warm_up=True) == slow.main_at(step)
    assert slow.meta_at(10, warm_up=False) == 0.05


@pytest.mark.parametrize("share", [0.3, 0.5, 0.6, 0.7])
@pytest.mark.parametrize("steps_per_epoch", [1, 7, 2343])
def test_rates_fall_between_two_epochs_where_the_share_is_one_of_epochs(share, steps_per_epoch):
    total, at = 10 * steps_per_epoch, round(10 * share) * steps_per_epoch
    rates = replace(STEP, fall_at=share, total_steps=total)
    assert rates.main_at(at - 1) == 0.4
    assert rates.main_at(at) == pytest.approx(0.04)
