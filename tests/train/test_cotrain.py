from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cotraining import (
    BATCH,
    FEATURES,
    HELD_OUT,
    META,
    POOL,
    build_learner,
    build_training,
    noisy_pool,
    run,
    to_device,
    weights_of,
)
from networks import rows
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from nccleaner.errors import TrainingError
from nccleaner.train.learner import Learner
from nccleaner.train.pairs import Features


def pool_logits(learner, device="cpu"):
    features = Features(*(table.to(device) for table in FEATURES))
    images, texts = learner.embed_images(features), learner.embed_texts(features)
    return learner.logits(images, texts, to_device(noisy_pool()[0], device)).cpu()


def found_mismatched(learners, device="cpu"):
    """AUROC of the mean corrected similarity for the captions that were moved."""
    mean = sum(pool_logits(learner, device).sigmoid() for learner in learners) / 2
    return roc_auc_score(noisy_pool()[1], -mean.numpy())


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
@pytest.mark.parametrize("gradient", ["direct", "exact"])
def test_training_finds_the_captions_that_were_moved(gradient, device):
    training = build_training(gradient=gradient, device=device)
    assert 0.35 < found_mismatched(training.learners, device) < 0.65
    reports = run(training)
    assert found_mismatched(training.learners, device) > 0.95
    assert [report.epoch for report in reports] == list(range(1, 8))
    assert reports[-1].believed == pytest.approx(0.6, abs=0.06)
    assert reports[-1].selection > 0.95
    assert reports[-1].meta_loss < reports[0].meta_loss


class RecordingLearner(Learner):
    """Notes what it is trained with."""

    log: list
    name: str

    def step(self, batch, **arguments):
        self.log.append((self.name, batch))
        return super().step(batch, **arguments)


def test_each_network_trains_on_what_the_other_as_just_updated_believes():
    log, judged = [], []
    learners = [build_learner(seed, kind=RecordingLearner) for seed in (0, 1)]
    for name, learner in zip("AB", learners, strict=True):
        learner.name, learner.log = name, log

    def purify(scores):
        by = [
            name
            for name, learner in zip("AB", learners, strict=True)
            if np.array_equal(scores.pool, pool_logits(learner).sigmoid().numpy())
        ]
        judged.append(len(judged) + 1)
        log.append(("judge", *by))
        # Each decision is told from all others by its weight.
        return np.full(POOL, judged[-1] / 16, dtype=np.float32)

    reports = run(build_training(learners=learners, purify=purify, epochs=4, warm_up_epochs=2))
    steps = POOL // BATCH
    order = [(entry[0], entry[1]) if entry[0] == "judge" else entry[0] for entry in log]
    alone = ["A"] * steps + ["B"] * steps
    judge_a, judge_b = ("judge", "A"), ("judge", "B")
    exchange = ["A"] * steps + [judge_a] + ["B"] * steps + [judge_b]
    assert order == [*alone, *alone, judge_a, judge_b, *exchange, *exchange]

    batches = [entry for entry in log if entry[0] != "judge"]
    epochs = [batches[i : i + steps] for i in range(0, len(batches), steps)]
    for epoch in epochs:  # every pair once
        seen = torch.cat([batch.pairs.image_rows for _, batch in epoch])
        assert sorted(seen.tolist()) == list(range(POOL))
    weights = [{w for _, batch in epoch for w in batch.weights.tolist()} for epoch in epochs]
    # Epochs 1 and 2 warm up. A then trains on B's last decision (2), B on A's newest (3), ...
    assert weights == [{1.0}, {1.0}, {1.0}, {1.0}, {2 / 16}, {3 / 16}, {4 / 16}, {5 / 16}]
    assert [batch.warm_up for _, batch in batches] == [True] * 4 * steps + [False] * 4 * steps
    believed = [report.believed for report in reports]
    assert believed == [1.0, (1 + 2) / 32, (3 + 4) / 32, (5 + 6) / 32]


def test_purification_sees_the_pool_and_both_kinds_of_trusted_pairs():
    seen = []

    def purify(scores):
        seen.append(scores)
        return np.ones_like(scores.pool)

    run(build_training(purify=purify, epochs=6))
    last = seen[-1]
    assert last.pool.shape == (POOL,)
    assert last.matched.shape == (META,)
    assert 0.9 * META <= len(last.mismatched) <= META
    assert all(((part > 0) & (part < 1)).all() and part.dtype == np.float32 for part in last)
    assert last.matched.mean() > 0.7
    assert last.mismatched.mean() < 0.3


def test_trusted_pairs_are_learned_beside_the_pool_and_always_believed():
    log = []
    learner = build_learner(0, kind=RecordingLearner)
    learner.name, learner.log = "A", log

    run(
        build_training(
            learners=[learner],
            learn_trusted=True,
            purify=lambda scores: np.full(POOL, 0.25, np.float32),
            epochs=3,
        )
    )

    for start in range(0, len(log), POOL // BATCH):
        batches = [batch for _, batch in log[start : start + POOL // BATCH]]
        rows_seen = torch.cat([batch.pairs.image_rows for batch in batches])
        weights = torch.cat([batch.weights for batch in batches])
        assert sorted(rows_seen.tolist()) == list(range(POOL + META))
        assert (weights[rows_seen >= POOL] == 1).all()
    assert (weights[rows_seen < POOL] == 0.25).all()  # in the last epoch


def test_what_a_network_picks_is_e_to_the_minus_its_loss():
    seen = []

    def purify(scores):
        seen.append(scores)
        return np.ones_like(scores.pool)

    run(build_training(purify=purify, epochs=6))
    bad = noisy_pool()[1]
    assert roc_auc_score(bad, -seen[-1].picked) > 0.9
    # A pair that is like any other is picked as often as chance has it in a batch.
    assert seen[0].picked[np.asarray(bad)].mean() < 5 / BATCH


def test_an_equal_caption_is_none_to_pick_from_however_products_are_rounded():
    """Rounded products have their own idea of a cosine, on hardware that is faster so."""
    generator = torch.Generator().manual_seed(0)
    texts = F.normalize(torch.randn(POOL, 64, generator=generator))
    texts[::6] = texts[0]
    images = F.normalize(texts + 0.05 * torch.randn(POOL, 64, generator=generator))
    training = build_training(pool=rows(range(POOL)))
    before = torch.get_float32_matmul_precision()
    picked = []
    try:
        for precision in ("highest", "medium"):
            torch.set_float32_matmul_precision(precision)
            training._generator.manual_seed(0)
            picked.append(training._picked(images, texts)[::6])
    finally:
        torch.set_float32_matmul_precision(before)
    assert picked[1] == pytest.approx(picked[0], rel=0.01)


def test_belief_of_zero_everywhere_does_not_stall():
    training = build_training(purify=lambda scores: np.zeros_like(scores.pool), epochs=4)
    reports = run(training)
    assert all(value.isfinite().all() for value in weights_of(training))
    assert all(
        math.isfinite(value)
        for report in reports
        for value in (report.main_loss, report.meta_loss, report.selection)
    )
    assert reports[-1].believed == 0


def test_the_two_networks_differ():
    training = build_training(epochs=1)
    run(training)
    one, two = (pool_logits(learner) for learner in training.learners)
    assert not torch.equal(one, two)


def test_every_step_is_told():
    told = []
    training = build_training(epochs=2)
    list(training.epochs(lambda: told.append(1)))
    assert len(told) == 2 * 2 * training.steps_per_epoch() == 2 * 2 * (POOL // BATCH)


def test_diverged_training_stops_with_the_epoch():
    features = Features(FEATURES.images.clone(), FEATURES.texts)
    features.images[17] = math.nan
    with pytest.raises(TrainingError, match="epoch 1"):
        run(build_training(features=features))


def test_selection_is_the_auroc_of_held_out_pairs():
    training = build_training(epochs=1)
    (report,) = run(training)
    last = slice(POOL + META, None)
    cosines = sum(
        learner.embed_images(FEATURES)[last] @ learner.embed_texts(FEATURES)[last].T
        for learner in training.learners
    )
    truth = torch.eye(HELD_OUT).flatten()
    assert report.selection == pytest.approx(roc_auc_score(truth, cosines.flatten()), abs=1e-6)


def test_one_network_alone_trains_on_what_itself_believes():
    log = []
    learner = build_learner(0, kind=RecordingLearner)
    learner.name, learner.log = "A", log

    def purify(scores):
        log.append(("judge", None))
        return np.full(POOL, len(log) / 64, dtype=np.float32)

    reports = run(build_training(learners=[learner], purify=purify, epochs=4, warm_up_epochs=2))
    steps = POOL // BATCH
    order = [name for name, _ in log]
    epoch = ["A"] * steps
    assert order == [*epoch, *epoch, "judge", *epoch, "judge", *epoch, "judge"]
    batches = [batch for _, batch in log if batch is not None]
    weights = [batch.weights.unique().tolist() for batch in batches[::steps]]
    assert weights == [[1.0], [1.0], [13 / 64], [20 / 64]]
    assert reports[-1].believed == 27 / 64


def test_without_purification_every_pair_is_believed_throughout():
    log = []
    learners = [build_learner(seed, kind=RecordingLearner) for seed in (0, 1)]
    for learner in learners:
        learner.name, learner.log = "", log
    reports = run(build_training(learners=learners, purify=None, epochs=4, warm_up_epochs=1))
    assert all((batch.weights == 1).all() for _, batch in log)
    assert [report.believed for report in reports] == [1.0] * 4


@pytest.mark.parametrize(("hard_mismatched", "given"), [(True, 16), (False, 32)])
def test_there_are_as_many_mismatched_as_matched_pairs(hard_mismatched, given):
    seen = []

    class CountingLearner(Learner):
        def step(self, batch, **arguments):
            seen.append([len(arguments[name]) for name in ("matched", "mismatched")])
            assert arguments["hard_mismatched"] == hard_mismatched
            return super().step(batch, **arguments)

    learners = [build_learner(0, kind=CountingLearner)]
    run(build_training(learners=learners, hard_mismatched=hard_mismatched, epochs=3))
    matched, mismatched = np.array(seen).T
    assert matched.min() >= 32
    extra = matched // 2 if hard_mismatched else 0
    # A draw now and then hits the image's own caption and is left out.
    assert (matched - extra - mismatched <= 2).all()
    assert (mismatched + extra <= matched).all()


def test_every_so_many_steps_are_reported_with_their_losses_and_rate():
    noted = []

    class NotingLearner(Learner):
        def step(self, batch, **arguments):
            rate = self.main_rate
            losses = super().step(batch, **arguments)
            noted.append((*(loss.item() for loss in losses), rate))
            return losses

    learners = [build_learner(seed, kind=NotingLearner) for seed in (0, 1)]
    reports = run(build_training(learners=learners, epochs=3))
    found = [step for report in reports for step in report.steps]
    # 6 steps an epoch, A's before B's; of each network every 4th over all epochs.
    places = [(1, 0, 4), (1, 1, 4), (2, 0, 8), (2, 0, 12), (2, 1, 8), (2, 1, 12)]
    places += [(3, 0, 16), (3, 1, 16)]
    assert [(step.epoch, step.network, step.step) for step in found] == places
    for step in found:
        before = (step.epoch - 1) * 12 + step.network * 6
        expected = noted[before + (step.step - 1) % 6]
        assert (step.main_loss, step.meta_loss, step.main_rate) == expected
    means = np.mean([losses[:2] for losses in noted[:12]], axis=0)
    assert (reports[0].main_loss, reports[0].meta_loss) == pytest.approx(tuple(means))
