"""Training divided among processes: what torchrun starts, and what its tests compare.

torchrun --nproc-per-node 2 tests/spread.py OUT      # writes OUT/<rank>.pt
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from networks import ALL_LOSSES, build_main_net, build_meta_net, latent_features, rows

from nccleaner.model.towers import GRUTower
from nccleaner.train.cotrain import CoTraining, Schedule
from nccleaner.train.learner import Learner
from nccleaner.train.pairs import Features, TrustedPairs
from nccleaner.train.rates import Rates
from nccleaner.train.world import World

POOL, META, HELD_OUT = 203, 31, 20
BATCH = 50
WIDTH, VOCABULARY = 12, 40
CASES = [
    *((text, gradient) for text in ("frozen", "gru") for gradient in ("direct", "exact")),
    ("frozen", "finite_difference"),
    ("frozen", "none"),
]


def torchrun_command(*arguments, processes=2):
    """The words that start a program as so many processes of this machine."""
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *words, *map(str, arguments)]


def environment():
    """That of the processes."""
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PATH": paths}


def torchrun(*arguments, check=True):
    """Runs a program as two processes; returns what it said."""
    return subprocess.run(
        torchrun_command(*arguments),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=check,
    )


def draw_tables(text):
    """Frozen images with frozen captions or, for the GRU, with captions of 3 to 9 tokens."""
    count = POOL + META + HELD_OUT
    features = latent_features(count, width=WIDTH, latent=4, dtype=torch.float64)
    if text == "frozen":
        return features
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, VOCABULARY, (count, 9), generator=generator)
    tokens[torch.arange(9) >= torch.randint(3, 10, (count, 1), generator=generator)] = 0
    return Features(features.images, tokens)


def build_learner(text, seed, world):
    tower = None
    if text == "gru":
        torch.manual_seed(seed)
        tower = GRUTower(
            vocabulary=VOCABULARY, embedding_width=6, layers=2, joint_width=10, dropout=0.0
        )
    size = {"vectors": 8, "seed": seed}
    return Learner(
        main_net=build_main_net(features=WIDTH, joint=10, dropout=0.3, text_tower=tower, **size),
        meta_net=build_meta_net(hidden=6, **size),
        loss_weights=ALL_LOSSES,
        rates=Rates(
            schedule="cosine", main=3e-3, meta=3e-3, rise_steps=2, fall_at=0.6, total_steps=24
        ),
        weight_decay=0.1,
        averaging=0.9,
        precision="float32",
        world=world,
    )


def build_training(text, gradient, world):
    """Odd counts everywhere; images and captions repeat; half of the captions are moved."""
    texts = torch.arange(POOL)
    texts[: POOL // 2] = texts[: POOL // 2].roll(2)
    first, second, last = POOL, POOL + META, POOL + META + HELD_OUT
    return CoTraining(
        learners=[build_learner(text, seed, world) for seed in (0, 1)],
        features=draw_tables(text),
        pool=rows(torch.arange(POOL) // 2 * 2, texts),
        meta=TrustedPairs(
            rows(range(first, second - 3)), rows([first, first + 1], [first + 4] * 2)
        ),
        held_out=rows(range(second, last)),
        purify=lambda scores: (scores.picked * scores.pool).astype(np.float32),
        first_weights=np.linspace(0.5, 1, POOL, dtype=np.float32),
        schedule=Schedule(
            epochs=4,
            warm_up_epochs=2,
            batch_size=BATCH,
            trusted_batch_size=13,
            hard_mismatched=True,
            gradient=gradient,
            learn_trusted=True,
            log_every=3,
        ),
        seed=0,
        world=world,
    )


def train(text, gradient, world):
    """Trains; returns the networks, the belief in the pool and the reports."""
    training = build_training(text, gradient, world)
    torch.manual_seed(0)  # dropout draws from torch's own generator
    reports = list(training.epochs(lambda: None))
    return {
        "networks": [
            {name: dict(getattr(learner, name).state_dict()) for name in NETWORKS}
            for learner in training.learners
        ],
        "believed": training.weights,
        "losses": [(report.main_loss, report.meta_loss, report.selection) for report in reports],
        "steps": [(one.main_loss, one.meta_loss) for report in reports for one in report.steps],
    }


NETWORKS = ("main_net", "meta_net", "average_net")


def meet(world):
    """What becomes of rows that go through each of the collectives, and of gradients, twice."""
    count = 7
    whole = torch.linspace(0.1, 2, count * 3, dtype=torch.float64).view(count, 3)
    square = torch.linspace(-1, 1, count * count, dtype=torch.float64).view(count, count)
    mine = world.rows(count)
    own = whole[mine.own].clone().requires_grad_()
    matrix = square[mine.own].clone().requires_grad_()
    loss = part_of_loss(own, matrix, mine)
    first = torch.autograd.grad(loss, (own, matrix), create_graph=True)
    length = sum(one.square().sum() for one in first)
    second = torch.autograd.grad(length, (own, matrix))
    torch.manual_seed(3)
    return {
        "loss": world.total([loss.detach()])[0],
        "first": [mine.gather(one.detach()) for one in first],
        "second": [mine.gather(one) for one in second],
        "transposed": mine.gather(mine.transpose(matrix.detach())),
        "dropped": mine.gather(mine.dropout(own.detach(), share=0.4)),
        "same": world.same(torch.tensor([world.rank])),
    }


def part_of_loss(own, matrix, mine):
    """A sum over own rows that depends on the rows of all."""
    whole = mine.gather(own.sin())
    distances = (own[:, None] - whole).square().sum(dim=2)
    far = (matrix * mine.transpose(matrix**2) * distances).sum()
    return far + mine.part_of_mean((own - mine.mean(own)).square().sum(dim=1)) * 5


def main(folder):
    dist.init_process_group("gloo")
    world = World(dist.get_rank(), dist.get_world_size())
    results = {case: train(*case, world) for case in CASES}
    torch.save({"meet": meet(world), "trained": results}, folder / f"{world.rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
