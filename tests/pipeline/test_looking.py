"""The look before training, on synthetic features of images with several captions."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from families import NONE, RATE, make_family
from networks import rows
from sklearn.metrics import roc_auc_score

from nccleaner.config import RunConfig
from nccleaner.data.noise import NoiseKind
from nccleaner.pipeline import looking as module
from nccleaner.pipeline.device import DeviceTables
from nccleaner.pipeline.looking import FROZEN_ROUNDS, Look, look_before_training, mismatched_of
from nccleaner.purify.frozen import FrozenEvidence
from nccleaner.purify.mixture import fit_mixture
from nccleaner.purify.rounds import first_belief

CONFIG = RunConfig()
FIT = partial(fit_mixture, prior="anchor", max_iterations=10, tolerance=1e-3)


def make(captions: int, kind: NoiseKind) -> tuple[DeviceTables, np.ndarray]:
    tables, matched = make_family(captions, kind)
    return DeviceTables.on(tables, "cpu"), matched


def look(data: DeviceTables) -> Look:
    return look_before_training(data, CONFIG, FIT, lambda: None)


def belief_without_siblings(data: DeviceTables, frozen: FrozenEvidence) -> np.ndarray:
    meta = data.tables.meta.matched
    other = mismatched_of(meta, NONE, torch.Generator().manual_seed(CONFIG.seed))
    evidence = [data.evidence(frozen, pairs).numpy() for pairs in (data.pool, meta, other)]
    return first_belief(*evidence, fit=FIT).clean_probability


def test_siblings_are_heard_where_captions_move_one_by_one():
    data, matched = make(5, "random")
    found = look(data)

    assert found.siblings
    alone = belief_without_siblings(data, found.frozen)
    belief = found.belief.clean_probability
    assert roc_auc_score(matched, belief) > roc_auc_score(matched, alone) + 0.02
    assert (1 - belief).mean() == pytest.approx(RATE, abs=0.05)


def test_siblings_that_are_wrong_together_are_not_heard_which_is_better(monkeypatch):
    data, matched = make(5, "block")
    found = look(data)
    monkeypatch.setattr(module, "_MAX_CONTRADICTION", 1.0)
    heard = look(data)

    assert (found.siblings, heard.siblings) == (False, True)
    belief, misled = found.belief.clean_probability, heard.belief.clean_probability
    np.testing.assert_array_equal(belief, belief_without_siblings(data, found.frozen))
    assert roc_auc_score(matched, belief) > roc_auc_score(matched, misled) + 0.005
    assert (1 - belief).mean() == pytest.approx(RATE, abs=0.05)
    assert (1 - misled).mean() < (1 - belief).mean() - 0.03


def test_one_caption_an_image_has_no_siblings():
    data, matched = make(1, "random")
    found = look(data)

    assert not found.siblings
    assert roc_auc_score(matched, found.belief.clean_probability) > 0.8


def test_too_few_trusted_pairs_with_siblings_say_nothing_of_them():
    data, _ = make(5, "random")
    trusted = data.tables.meta.matched.image_rows
    lonely = ~torch.isin(data.pool.image_rows, trusted[19:])
    few = DeviceTables(
        data.tables, data.features, data.identities, data.pool.take(lonely.nonzero()[:, 0]), 0
    )

    assert look(data).siblings
    assert not look(few).siblings


def test_it_tells_of_its_rounds_and_repeats_to_the_bit():
    data, _ = make(5, "random")
    rounds: list[int] = []
    first = look_before_training(data, CONFIG, FIT, lambda: rounds.append(1))
    again = look(data)

    assert len(rounds) == FROZEN_ROUNDS
    np.testing.assert_array_equal(first.belief.clean_probability, again.belief.clean_probability)


def test_mismatched_pairs_are_made_by_exchange_beside_those_labelled():
    matched, labelled = rows(torch.arange(10)), rows([20, 21], [22, 23])

    made = mismatched_of(matched, labelled, torch.Generator().manual_seed(0))

    assert len(made) == 32
    assert (made.image_rows != made.text_rows).all()
    assert made.image_rows[-2:].tolist() == [20, 21]
    assert set(made.text_rows[:-2].tolist()) <= set(range(10))
