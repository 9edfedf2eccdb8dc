from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from networks import ALL_LOSSES, build_main_net, build_meta_net, latent_features, rows
from sklearn.metrics import roc_auc_score

from nccleaner.errors import TrainingError
from nccleaner.purify.mixture import fit_mixture, histogram
from nccleaner.train.cotrain import CoTraining, Schedule
from nccleaner.train.learner import Learner, StepSizes
from nccleaner.train.pairs import Features, Pairs, TrustedPairs

POOL, META, HELD_OUT = 600, 80, 40
BATCH = 100
NONE = rows(torch.arange(0))
FEATURES = latent_features(POOL + META + HELD_OUT, noise=0.8)


def noisy_pool(rate=0.4, seed=0):
    """The first 600 pairs with a share of their captions moved, and which were."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(POOL, generator=generator)[: round(rate * POOL)]
    texts = torch.arange(POOL)
    texts[chosen] = chosen.roll(1)
    return rows(torch.arange(POOL), texts), (texts != torch.arange(POOL)).numpy()


def build_learner(seed, *, kind=Learner, features=32, dropout=0.2, device="cpu", total_steps=42):
    size = {"vectors": 16, "dtype": torch.float32, "seed": seed}
    return kind(
        main_net=build_main_net(features=features, joint=32, dropout=dropout, **size).to(device),
        meta_net=build_meta_net(hidden=16, residual=False, **size).to(device),
        loss_weights=ALL_LOSSES,
        step_sizes=StepSizes(
            main=3e-3, meta=3e-3, weight_decay=0.0, warm_up_steps=5, averaging=0.9
        ),
        total_steps=total_steps,
    )


def mixture_decides(scores):
    mixture = fit_mixture(
        histogram(scores.pool),
        matched=histogram(scores.matched),
        mismatched=histogram(scores.mismatched),
        prior="anchor",
        max_iterations=10,
        tolerance=1e-3,
    )
    return mixture.clean_probability(scores.pool)


def to_device(pairs, device):
    return Pairs(pairs.image_rows.to(device), pairs.text_rows.to(device))


def build_training(
    *,
    learners=None,
    features=FEATURES,
    purify=mixture_decides,
    epochs=7,
    warm_up_epochs=2,
    gradient="direct",
    device="cpu",
):
    learners = learners or [build_learner(seed, device=device) for seed in (0, 1)]
    matched = rows(range(POOL, POOL + META))
    held_out = rows(range(POOL + META, POOL + META + HELD_OUT))
    return CoTraining(
        learners=learners,
        features=Features(*(table.to(device) for table in features)),
        pool=to_device(noisy_pool()[0], device),
        meta=TrustedPairs(to_device(matched, device), to_device(NONE, device)),
        held_out=to_device(held_out, device),
        purify=purify,
        first_weights=None,
        schedule=Schedule(
            epochs=epochs,
            warm_up_epochs=warm_up_epochs,
            batch_size=BATCH,
            trusted_batch_size=32,
            gradient=gradient,
        ),
        seed=0,
    )


def run(training):
    torch.manual_seed(0)  # dropout draws from torch's own generator
    return list(training.epochs(lambda: None))


def pool_logits(learner, device="cpu"):
    features = Features(*(table.to(device) for table in FEATURES))
    images, texts = learner.embed_images(features), learner.embed_texts(features)
    return learner.logits(images, texts, to_device(noisy_pool()[0], device)).cpu()


def found_mismatched(learners, device="cpu"):
    """AUROC of the mean corrected similarity for the captions that were moved."""
    mean = sum(pool_logits(learner, device).sigmoid() for learner in learners) / 2
    return roc_auc_score(noisy_pool()[1], -mean.numpy())


def weights_of(training):
    return [
        value
        for learner in training.learners
        for net in (learner.main_net, learner.meta_net, learner.average_net)
        for value in net.state_dict().values()
    ]


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


def test_equal_seeds_give_equal_networks_bit_by_bit():
    first, second = build_training(epochs=3), build_training(epochs=3)
    assert run(first) == run(second)
    for one, two in zip(weights_of(first), weights_of(second), strict=True):
        assert torch.equal(one, two)


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
