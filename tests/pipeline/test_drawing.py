"""The draw of the pool: exact, fair, seeded."""

from __future__ import annotations

import numpy as np
import pytest

from nccleaner.pipeline.drawing import draw_rows


def masks(seed=0, parts=7, rows=60):
    generator = np.random.default_rng(seed)
    return [generator.random(rows + part) < 0.7 for part in range(parts)]


def everything(parts):
    return [(part, row) for part, mask in enumerate(parts) for row in np.flatnonzero(mask)]


def drawn_of(parts, count, seed=0):
    chosen = draw_rows(iter(parts), count, seed=seed)
    assert all((np.diff(rows) > 0).all() for rows in chosen)
    return [(part, row) for part, rows in enumerate(chosen) for row in rows]


@pytest.mark.parametrize("count", [1, 50, 150, 400])
def test_exactly_so_many_usable_rows_are_drawn(count):
    usable = everything(masks())
    drawn = drawn_of(masks(), count)
    assert len(drawn) == min(count, len(usable))
    assert set(drawn) <= set(usable)


@pytest.mark.parametrize("count", [1, 50, 150])
def test_the_rows_with_the_lowest_numbers_are_drawn(count):
    numbers = [
        np.random.default_rng([3, part]).random(len(mask)) for part, mask in enumerate(masks())
    ]
    by_number = sorted(everything(masks()), key=lambda place: numbers[place[0]][place[1]])
    assert set(drawn_of(masks(), count, seed=3)) == set(by_number[:count])


def test_with_room_for_all_every_usable_row_is_taken_in_order():
    assert drawn_of(masks(), 10_000) == everything(masks())


def test_the_seed_decides():
    assert drawn_of(masks(), 50, seed=1) == drawn_of(masks(), 50, seed=1)
    assert drawn_of(masks(), 50, seed=1) != drawn_of(masks(), 50, seed=2)


def test_a_smaller_draw_is_part_of_a_larger_one():
    assert set(drawn_of(masks(), 50)) < set(drawn_of(masks(), 150))


def test_every_row_has_the_same_chance():
    parts = [np.ones(30, bool), np.zeros(5, bool), np.ones(10, bool)]
    times = np.zeros((3, 30))
    for seed in range(600):
        for part, row in drawn_of(parts, 10, seed):
            times[part, row] += 1
    counts = np.concatenate([times[0], times[2, :10]])
    # 600 draws with chance 1/4: 150 with a deviation of 10.6.
    assert counts.sum() == 6000
    assert np.abs(counts - 150).max() < 45
    assert not times[1].any()
