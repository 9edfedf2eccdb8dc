"""The simulation of promises: its numbers by hand, and what the documentation says they are."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from promises import (
    PAIRS,
    TARGETS,
    Source,
    Trial,
    fewest,
    fewest_table,
    outcome,
    sample_is_enough,
    simulate,
    trusted_is_enough,
)

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "cutoffs.md"


def cells(table: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line[2:3] == "."
    ]


def test_of_a_clean_sample_as_many_are_enough_as_the_exact_formula_says():
    for target in TARGETS:
        kept = math.ceil(math.log(0.05) / math.log(target))  # P^n <= 5 %
        assert fewest(sample_is_enough, target, 0.0) == 2 * kept


@pytest.mark.parametrize("enough", [sample_is_enough, trusted_is_enough])
def test_the_documentation_has_the_numbers_that_are_computed(enough):
    table = cells(fewest_table(enough))
    documented = cells(DOCUMENTATION.read_text())

    assert len(table) == len(TARGETS)
    assert all(row in documented for row in table)


@pytest.mark.parametrize("source", list(Source))
def test_a_data_set_is_judged_as_a_run_is(source):
    data = simulate(Trial(source, 0.9, 200, 1.5), seed=1)
    again = simulate(Trial(source, 0.9, 200, 1.5), seed=1)

    assert len(data.scores) == PAIRS - (200 if source == Source.SAMPLE else 0)
    assert data.counts.total == len(data.scores)
    assert data.witness.labelled == 200
    assert data.scores[data.truth].mean() > data.scores[~data.truth].mean() + 0.5
    assert np.array_equal(data.scores, again.scores)
    assert outcome(data, 0.9) == outcome(again, 0.9)


def test_a_broken_promise_is_seen():
    data = simulate(Trial(Source.SAMPLE, 0.8, 200, 1.5), seed=6)
    kept_promise = outcome(data, 0.8)
    broken = outcome(data._replace(truth=~data.truth), 0.8)

    assert kept_promise == (False, False, False, (True, True, True))
    assert broken == (False, True, True, (False, False, False))


def test_what_cannot_be_promised_is_refused_and_not_missed():
    found = outcome(simulate(Trial(Source.SAMPLE, 0.99, 20, 1.0), seed=1), 0.99)

    assert found.refused
    assert not found.missed
