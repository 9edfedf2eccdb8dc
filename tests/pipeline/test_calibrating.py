"""What the trusted pairs decide after training, on images with several captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from families import HELD_OUT, PROBES, RATE, make_family
from handmade import Listener, small, train
from sklearn.metrics import roc_auc_score

from nccleaner.pipeline import calibrating as module
from nccleaner.pipeline.calibrating import calibrate
from nccleaner.pipeline.device import DeviceTables
from nccleaner.pipeline.fitting import Trained, judge_scorer
from nccleaner.pipeline.labelled import EXCHANGES
from nccleaner.purify.evidence import Scored
from nccleaner.purify.fit_judge import fit_judge
from nccleaner.purify.near_misses import NearMisses, View
from nccleaner.purify.posterior import Posterior
from nccleaner.purify.scoring import Scorer
from nccleaner.train.pairs import Pairs, TrustedPairs, join_pairs

CONFIG = small(train={"epochs": 2}, purify={"references": 512})


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    """A scorer that hears siblings, its tables, and which pairs are matched and believed."""
    tables, matched = make_family(3, "random")
    fitted = train(tmp_path_factory.mktemp("heard"), None, tables, CONFIG)
    assert fitted.scorer.siblings
    assert fitted.noise_rate == pytest.approx(RATE, abs=0.05)
    return fitted.scorer, DeviceTables.on(tables, "cpu"), matched, fitted.belief


def score(scorer: Scorer, data: DeviceTables, pairs: Pairs, *, belief: np.ndarray) -> Scored:
    return scorer.score(
        scorer.gather(data.features, pairs, identities=data.identities), belief=belief
    )


def test_both_judges_hear_siblings_and_are_better_for_it(heard):
    scorer, data, matched, belief = heard
    evidence = scorer.gather(data.features, data.pool, identities=data.identities)
    for judge in (scorer.judges.fitted, scorer.judges.unseen):
        assert len(judge.sibling_heads) == 2
    alone = scorer.judges.fitted.corrected_similarity(evidence.of_rows(slice(None), belief))

    scores = scorer.score(evidence, belief=belief)

    both = roc_auc_score(matched, scores.corrected_similarity)
    assert both > roc_auc_score(matched, alone) + 0.005
    assert (1 - scores.clean_probability).mean() == pytest.approx(RATE, abs=0.05)


def test_labelled_pairs_score_like_other_pairs_of_their_standing(heard):
    """The probes by heads that did not learn from them; the truth knows the rest of the pool."""
    scorer, data, matched, belief = heard
    scores = score(scorer, data, data.pool, belief=belief)
    rest, labelled = slice(0, len(matched) - PROBES), scorer.judges.fitted.labelled

    np.testing.assert_array_equal(labelled.matched, matched[rest.stop :])
    by_probes = roc_auc_score(labelled.matched, labelled.corrected_similarity)
    by_truth = roc_auc_score(matched[rest], scores.corrected_similarity[rest])
    assert by_probes == pytest.approx(by_truth, abs=0.05)


def test_pairs_outside_the_pool_are_told_apart_beside_their_siblings_in_it(heard):
    scorer, data, _, belief = heard
    own = data.tables.held_out.matched
    other = Pairs(own.image_rows, own.text_rows.roll(1))
    pairs = join_pairs(data.pool, own, other)
    outside = np.arange(len(pairs)) >= len(belief)
    told = np.where(outside, np.nan, np.resize(belief, len(pairs))).astype(np.float32)

    scores = score(scorer, data, pairs, belief=told)

    truth = np.arange(2 * HELD_OUT) < HELD_OUT
    assert roc_auc_score(truth, scores.clean_probability[outside]) > 0.9
    assert scorer.judges.unseen.noise_rate == scorer.judges.fitted.noise_rate


def test_calibrating_again_gives_the_same_judges(heard):
    scorer, data, _, belief = heard
    before, contrast = scorer.judges, scorer.contrast
    judged: list[int] = []

    again = calibrate(scorer, data, CONFIG, belief=belief, on_judge=lambda: judged.append(1))

    assert judged == [1, 1]
    assert again.fitted.to_json() == before.fitted.to_json()
    assert again.unseen.to_json() == before.unseen.to_json()
    assert torch.equal(scorer.contrast.texts, contrast.texts)


def test_where_the_pool_holds_near_misses_judges_that_hear_contrast_alone_heed_it(
    heard, monkeypatch
):
    scorer, data, truth, belief = heard
    found = NearMisses(Posterior(-0.4, 0.5), 0.45, np.array([0.4, 0.5]))
    looked: list[Sequence[View]] = []
    monkeypatch.setattr(
        module, "find_near_misses", lambda views, *, rate, seed: looked.append(views) or found
    )
    heeding = calibrate(scorer, data, CONFIG, belief=belief, on_judge=lambda: None)

    for judge, kinds in ((heeding.fitted, 3), (heeding.unseen, 2)):
        assert (judge.near_misses, judge.noise_rate) == (found, 0.45)
        assert {len(head.weights) for head in judge.heads} == {kinds}  # contrast, and the belief
        assert {len(head.weights) for head in judge.sibling_heads} == {kinds + 1}
        labelled = judge.labelled
        np.testing.assert_array_equal(
            labelled.clean_probability, found.posterior(labelled.corrected_similarity)
        )
    probes = len(data.pool) - PROBES
    (views,) = looked
    labelled = heeding.fitted.labelled
    np.testing.assert_array_equal(views[0].matched, labelled.corrected_similarity[labelled.matched])
    monkeypatch.setattr(scorer, "judges", heeding)
    pool = score(scorer, data, data.pool, belief=belief)
    assert np.corrcoef(views[0].pool, pool.corrected_similarity[:probes])[0, 1] > 0.99
    assert roc_auc_score(truth, pool.clean_probability) > 0.9
    assert len(views[1].pool) == probes
    blind = CONFIG.model_copy(
        update={"purify": CONFIG.purify.model_copy(update={"near_misses": False})}
    )
    by_bayes = calibrate(scorer, data, blind, belief=belief, on_judge=lambda: None)
    assert by_bayes.fitted.near_misses is None
    assert len(looked) == 1


def test_pairs_labelled_0_stand_alone_where_they_are_harder_to_tell_than_exchanged_ones(
    heard, monkeypatch
):
    scorer, data, _, belief = heard
    tables = data.tables
    looks_matched = np.flatnonzero(tables.probe_matched)[:30]
    told = tables.probe_matched.copy()
    told[looks_matched] = False
    unlike = replace(data, tables=replace(tables, probe_matched=told))

    judges = calibrate(scorer, unlike, CONFIG, belief=belief, on_judge=lambda: None)

    np.testing.assert_array_equal(judges.fitted.labelled.matched, told[~tables.probe_exchanged])
    monkeypatch.setattr(scorer, "judges", scorer.judges)  # what comes now is undone
    notes = []
    for labels in (unlike.tables, tables):
        hears = Listener()
        trained = Trained(
            scorer, [torch.from_numpy(belief)], epochs=2, best_epoch=1, held_out_auroc=0.9
        )
        judge_scorer(trained, labels, config=CONFIG, device="cpu", reporter=hears)
        notes.append(hears.notes)
    assert [len(said) for said in notes] == [1, 0]
    assert "The 30 planted pairs that are labelled 0 are harder to tell" in notes[0][0]
    assert judges.fitted.noise.mismatched_passing > 0.5
    assert judges.unseen.labelled.repeats == EXCHANGES  # nothing is labelled 0 there


def test_the_judge_of_the_pool_learns_from_held_out_pairs_that_nobody_believed(heard, monkeypatch):
    scorer, data, _, belief = heard
    asked = []

    def note(evidence, similarity, matched, **how):
        asked.append((evidence, matched, how))
        return fit_judge(evidence, similarity, matched, **how)

    monkeypatch.setattr(module, "fit_judge", note)
    calibrate(scorer, data, CONFIG, belief=belief, on_judge=lambda: None)

    (probes, matched, how), (held_out, held_out_matched, _) = asked[:2]
    np.testing.assert_array_equal(how["outside"].matched, held_out_matched)
    for planted, others, outside, prior in zip(
        probes, held_out, how["outside"].evidence, how["priors"], strict=True
    ):
        assert (outside[:, 0] == 0).all()
        np.testing.assert_array_equal(outside[:, 1:], others)
        higher = planted[matched, 1:].mean(axis=0) - others[held_out_matched].mean(axis=0)
        assert higher.max() > 0
        np.testing.assert_allclose(
            prior.echo, np.maximum(higher, 0) / planted[matched, 0].mean(), rtol=1e-3
        )

    asked.clear()
    told = data.tables.probe_matched.copy()
    told[np.flatnonzero(told)[:30]] = False  # look matched, and are labelled 0
    unlike = replace(data, tables=replace(data.tables, probe_matched=told))
    calibrate(scorer, unlike, CONFIG, belief=belief, on_judge=lambda: None)
    assert asked[0][2]["outside"] is not None
    assert asked[2][2]["outside"] is None  # exchanged ones say nothing of the pool any more


@pytest.mark.parametrize(("count", "repeats"), [(9, EXCHANGES), (10, 1)])
def test_outside_the_pool_they_stand_alone_where_ten_are_held_out(heard, count, repeats):
    scorer, data, _, belief = heard
    tables, own = data.tables, data.tables.held_out.matched
    told = tables.probe_matched.copy()
    told[np.flatnonzero(told)[:30]] = False  # look matched, and are labelled 0
    labelled = Pairs(own.image_rows[:count], own.text_rows.roll(1)[:count])
    held_out = TrustedPairs(own, labelled)
    unlike = replace(data, tables=replace(tables, probe_matched=told, held_out=held_out))

    judges = calibrate(scorer, unlike, CONFIG, belief=belief, on_judge=lambda: None)

    learned_from = judges.unseen.labelled
    exchanged = 0 if repeats == 1 else EXCHANGES * HELD_OUT
    assert learned_from.repeats == repeats
    assert learned_from.matched.sum() == HELD_OUT
    assert (~learned_from.matched).sum() == exchanged + count


def test_pairs_labelled_0_that_are_easier_to_tell_than_exchanged_ones_join_them(heard):
    scorer, data, _, belief = heard
    tables = data.tables
    looks_matched = np.flatnonzero(tables.probe_matched)[:25]
    told, exchanged = tables.probe_matched.copy(), np.zeros_like(tables.probe_exchanged)
    told[looks_matched], exchanged[looks_matched] = False, True
    easy = replace(data, tables=replace(tables, probe_matched=told, probe_exchanged=exchanged))

    judges = calibrate(scorer, easy, CONFIG, belief=belief, on_judge=lambda: None)

    assert len(judges.fitted.labelled.matched) == PROBES


@pytest.mark.parametrize("count", [29, 30])
def test_pairs_labelled_0_that_are_like_exchanged_ones_join_them(heard, count):
    scorer, data, _, belief = heard
    tables = data.tables
    exchanged = tables.probe_exchanged.copy()
    exchanged[np.flatnonzero(exchanged)[:count]] = False
    alike = replace(data, tables=replace(tables, probe_exchanged=exchanged))

    judges = calibrate(scorer, alike, CONFIG, belief=belief, on_judge=lambda: None)

    one, other = (judge.to_json() for judge in (judges.fitted, scorer.judges.fitted))
    assert one["heads"] == other["heads"]
    assert one["labelled"]["matched"] == other["labelled"]["matched"]
    assert one["noise_rate"] == pytest.approx(other["noise_rate"], abs=0.03)


def test_siblings_that_were_not_heard_before_training_are_not_heard_after_it(heard):
    scorer, data, _, belief = heard
    deaf = Scorer(
        architecture=scorer.architecture,
        networks=scorer.networks,
        frozen=scorer.frozen,
        canonical=scorer.canonical,
        siblings=False,
        judges=None,
        tokenizer="",
    )

    judges = calibrate(deaf, data, CONFIG, belief=belief, on_judge=lambda: None)

    assert not judges.fitted.sibling_heads
    assert not judges.unseen.sibling_heads
    for with_, without in (
        (scorer.judges.fitted, judges.fitted),
        (scorer.judges.unseen, judges.unseen),
    ):
        assert with_.heads[0].weights.tolist() == without.heads[0].weights.tolist()
