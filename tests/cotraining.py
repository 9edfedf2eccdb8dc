"""Two small networks that train on a pool with captions moved, for the tests of training."""

from __future__ import annotations

import torch
from networks import ALL_LOSSES, build_main_net, build_meta_net, latent_features, rows

from nccleaner.purify.mixture import fit_mixture, histogram
from nccleaner.train.cotrain import CoTraining, Schedule
from nccleaner.train.learner import Learner
from nccleaner.train.pairs import Features, Pairs, TrustedPairs
from nccleaner.train.rates import Rates

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
        rates=Rates(
            schedule="cosine",
            main=3e-3,
            meta=3e-3,
            rise_steps=5,
            fall_at=0.6,
            total_steps=total_steps,
        ),
        weight_decay=0.0,
        averaging=0.9,
        precision="float32",
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
    hard_mismatched=True,
    learn_trusted=False,
    pool=None,
    device="cpu",
):
    learners = learners or [build_learner(seed, device=device) for seed in (0, 1)]
    matched = rows(range(POOL, POOL + META))
    held_out = rows(range(POOL + META, POOL + META + HELD_OUT))
    return CoTraining(
        learners=learners,
        features=Features(*(table.to(device) for table in features)),
        pool=to_device(pool or noisy_pool()[0], device),
        meta=TrustedPairs(to_device(matched, device), to_device(NONE, device)),
        held_out=to_device(held_out, device),
        purify=purify,
        first_weights=None,
        schedule=Schedule(
            epochs=epochs,
            warm_up_epochs=warm_up_epochs,
            batch_size=BATCH,
            trusted_batch_size=32,
            hard_mismatched=hard_mismatched,
            gradient=gradient,
            learn_trusted=learn_trusted,
            log_every=4,
        ),
        seed=0,
    )


def run(training):
    torch.manual_seed(0)  # dropout draws from torch's own generator
    return list(training.epochs(lambda: None))


def weights_of(training):
    return [
        value
        for learner in training.learners
        for net in (learner.main_net, learner.meta_net, learner.average_net)
        for value in net.state_dict().values()
    ]
