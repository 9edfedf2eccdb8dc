from __future__ import annotations

import pytest
import torch

from nccleaner.model.equal import where_equal


@pytest.mark.parametrize(("count", "others", "distinct"), [(40, 60, 30), (5, 2000, 3), (64, 64, 1)])
def test_finds_what_comparing_each_with_each_finds(count, others, distinct):
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randint(distinct, (n,), generator=generator) for n in (count, others))

    found = where_equal(left, right)

    expected = (left[:, None] == right).nonzero(as_tuple=True)
    assert len(expected[0]) > 0
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine, theirs)


def test_nothing_is_equal_to_nothing():
    none, some = torch.arange(0), torch.arange(3)
    for left, right in ((none, some), (some, none), (none, none), (some, some + 3)):
        assert [len(places) for places in where_equal(left, right)] == [0, 0]
