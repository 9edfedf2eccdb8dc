"""The cost of a job on many machines: closed form against simulation, and both by hand."""

from __future__ import annotations

import math
import sys
from statistics import median

import pytest
from cluster import Outcome, Queue, Storage, main


@pytest.mark.parametrize(
    ("shards", "workers", "rounds"), [(12, 1, 12), (12, 4, 3), (13, 4, 4), (3, 8, 1)]
)
def test_equal_shards_without_deaths_take_whole_rounds(shards, workers, rounds):
    queue = Queue(shards, shard_s=10.0, workers=workers)
    assert queue.simulate(0) == Outcome(10.0 * shards, 0, 10.0 * rounds, 0)
    assert queue.expected()[:2] == (10.0 * shards, 0)


def test_one_worker_takes_as_long_as_the_exact_formula_says():
    """Daly 2006: (1 / r + start) (exp(r t) - 1) for each shard of t seconds."""
    queue = Queue(40_000, shard_s=100.0, workers=1, deaths=2.0, start_s=30.0)
    rate = 2.0 / 3600
    exact = 40_000 * (1 / rate + 30.0) * math.expm1(rate * 100.0)
    simulated = queue.simulate(1)
    assert simulated.wall_s == pytest.approx(exact, rel=0.005)
    assert simulated.work_s + simulated.retried_s == pytest.approx(simulated.wall_s, rel=1e-9)
    assert queue.expected().wall_s == pytest.approx(exact, rel=0.005)


@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("deaths", [0.0, 0.2])
def test_the_closed_form_is_near_the_simulation(spread, deaths):
    queue = Queue(6_000, 300.0, spread=spread, workers=100, deaths=deaths, start_s=60.0)
    expected = queue.expected()
    found = [queue.simulate(seed) for seed in range(7)]
    work_s, retried_s, wall_s, died = (median(values) for values in zip(*found, strict=True))
    assert wall_s == pytest.approx(expected.wall_s, rel=0.1 if spread == 1 else 0.05)
    assert work_s == pytest.approx(expected.work_s, rel=0.05)
    assert retried_s == pytest.approx(expected.retried_s, rel=0.15)
    assert died == pytest.approx(expected.deaths, rel=0.15)
    assert (died > 0) == (deaths > 0)


def test_stragglers_and_deaths_only_make_it_longer():
    walls = [
        Queue(500, 100.0, spread=spread, workers=50, deaths=deaths, start_s=60.0).simulate(0).wall_s
        for spread, deaths in ((0.0, 0.0), (1.0, 0.0), (1.0, 5.0))
    ]
    assert walls == sorted(walls)
    assert walls[0] == 1000.0


def test_the_seed_decides():
    queue = Queue(300, 100.0, spread=0.5, workers=7, deaths=1.0, start_s=10.0)
    assert queue.simulate(5) == queue.simulate(5) != queue.simulate(6)


def test_what_is_stored_of_a_pair():
    stored = Storage(image_width=10, text_width=5, dim=100, columns=50, kept=0.5).bytes_per_pair()
    assert stored["features"] == 2 * 15 + 106 + 50
    assert stored["index flat"] == 0.5 * (2 * 4 * 100 + 7)
    assert stored["index ivf-pq"] == 0.5 * (2 * (16 + 8) + 7)


def test_the_table(monkeypatch, capsys):
    words = "cluster.py --pairs 1e6,2e6 --workers 4 --extraction 50 --scoring 1e4 --purge 1e5"
    monkeypatch.setattr(sys, "argv", words.split())
    main()
    lines = capsys.readouterr().out.splitlines()
    hours = [line.split("|")[4].strip() for line in lines[2:8]]
    assert hours == ["5.6", "0.0", "0.0", "11.1", "0.1", "0.0"]
    assert any(line.split("|")[3].strip() == "0.004" for line in lines if "features" in line)
