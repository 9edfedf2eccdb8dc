"""Two processes train what one trains with the same batches: real ones, started by torchrun."""

from __future__ import annotations

import pytest
import spread
import torch

from nccleaner.model.rows import Rows
from nccleaner.train.world import ALONE


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two processes had in the end."""
    folder = tmp_path_factory.mktemp("spread")
    spread.torchrun(spread.__file__, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def assert_close(found, expected, *, tolerance):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", spread.CASES, ids="-".join)
def test_networks_and_belief_are_those_of_one_process(found, case):
    """Several epochs with dropout, in float64, where only rounding may differ."""
    expected = spread.train(*case, ALONE)
    first, second = (one["trained"][case] for one in found)
    assert_close(first, expected, tolerance=1e-7)
    assert_close(second, first, tolerance=0)  # the processes never part


def test_what_processes_send_each_other_can_be_differentiated_twice(found):
    expected = spread.meet(ALONE)
    for one in found:
        assert_close(one["meet"], expected, tolerance=1e-12)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 12])
def test_portions_cover_a_batch_in_order_and_evenly(count):
    portions = [range(count)[Rows(count, rank, 5).own] for rank in range(5)]
    assert [row for portion in portions for row in portion] == list(range(count))
    assert max(map(len, portions)) - min(map(len, portions)) <= 1
