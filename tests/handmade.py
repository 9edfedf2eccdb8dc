"""Training tables made by hand, without shards and encoders, and a training of a second on them."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from networks import latent_features, rows
from smallfit import tiny

from nccleaner.config import RunConfig
from nccleaner.pipeline.fitting import Fitted, judge_scorer, train_scorer
from nccleaner.pipeline.pool import Targets, TrainingTables
from nccleaner.pipeline.reporter import SilentReporter
from nccleaner.pipeline.snapshots import Snapshots, training_fingerprint
from nccleaner.pipeline.workspace import Workspace
from nccleaner.train.pairs import Features, TrustedPairs

POOL, PROBES, META, HELD_OUT = 200, 40, 40, 30
EPOCHS, STEPS = 4, 12  # 6 of each network in an epoch


def make_tables() -> TrainingTables:
    """40 % of the captions of the pool are moved, and half of the probes."""
    count = POOL + PROBES + META + HELD_OUT
    features = latent_features(count, width=16)
    moved = np.arange(POOL) < 0.4 * POOL
    texts = np.where(moved, np.roll(np.arange(POOL), 1), np.arange(POOL))
    probes = np.arange(POOL, POOL + PROBES)
    probes[: PROBES // 2] = np.roll(probes[: PROBES // 2], 1)
    meta = rows(range(POOL + PROBES, POOL + PROBES + META))
    held_out = rows(range(count - HELD_OUT, count))
    none = rows(torch.arange(0))
    return TrainingTables(
        features=Features(*(table.half() for table in features)),
        identities=torch.arange(count),
        pool=rows(torch.arange(POOL + PROBES), torch.from_numpy(np.append(texts, probes))),
        pool_samples=pa.table({}),
        probe_matched=np.arange(PROBES) >= PROBES // 2,
        probe_exchanged=np.arange(PROBES) < PROBES // 2,
        meta=TrustedPairs(meta, none),
        held_out=TrustedPairs(held_out, none),
        tokenizer="",
        vocabulary=0,
        targets=Targets(None, None),
    )


TABLES = make_tables()


def small(**sections: object) -> RunConfig:
    """Settings of such a training; sections given are merged into it."""
    train = {
        "epochs": EPOCHS,
        "batch_size": 40,
        "trusted_batch_size": 16,
        "log_every": 4,
        "hinge": 1,  # what several switches concern
    }
    return tiny(**{**sections, "train": {**train, **sections.get("train", {})}})


CONFIG = small()


class Stopped(BaseException):
    """Ends a run from outside."""


class Listener(SilentReporter):
    """Notes what it is told, and may end training after so many of its own steps."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.steps: list[int] = []
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self._stop_after = stop_after

    @contextmanager
    def stage(self, title, total, unit):
        yield self._advance if unit == "steps" else lambda count: None

    def note(self, text):
        self.notes.append(text)

    def warn(self, text):
        self.warnings.append(text)

    def _advance(self, count):
        self.steps.append(count)
        if self._stop_after is not None and self.steps.count(1) > self._stop_after:
            raise Stopped


def train(
    run: Path,
    listener: Listener | None = None,
    tables: TrainingTables = TABLES,
    config: RunConfig = CONFIG,
    device: str = "cpu",
) -> Fitted:
    workspace, reporter = Workspace(run), listener or SilentReporter()
    snapshots = Snapshots.open(workspace, training_fingerprint(tables, config, device), reporter)
    trained = train_scorer(
        tables,
        config=config,
        device=device,
        snapshots=snapshots,
        sheet=workspace.reconstruction,
        reporter=reporter,
    )
    fitted = judge_scorer(trained, tables, config=config, device=device, reporter=reporter)
    fitted.scorer.save(workspace.scorer)
    return fitted
