"""Training on disk, epoch by epoch: an interrupted fit goes on after its last whole epoch.

`metrics.jsonl`, `last.safetensors` and `state.pt` are written in this order. Only the state is read
again, and it holds the lines of the metrics too: whenever a run ends, what it leaves is of one
epoch. The frozen evidence and the canonical view are not in it; they come out the same when
computed again.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from nccleaner.config import RunConfig
from nccleaner.errors import RunError
from nccleaner.files import remove_leftovers, replace_file
from nccleaner.model.mfsr import MainNet
from nccleaner.model.mscn import MetaNet
from nccleaner.pipeline.pool import TrainingTables
from nccleaner.pipeline.reporter import Reporter
from nccleaner.pipeline.workspace import Workspace, package_versions
from nccleaner.purify.scoring import network_tensors
from nccleaner.train.cotrain import CoTraining
from nccleaner.train.reports import EpochReport
from nccleaner.train.state import read_state, write_state

# Changes with what decides training and is in no setting: the evidence before it, for one.
_LAYOUT = 2


@dataclass(frozen=True, slots=True)
class Best:
    """The snapshot that scores.

    Attributes:
        epoch: Counted from 1.
        selection: AUROC on held-out pairs, in [0, 1].
        networks: Main and meta networks.
    """

    epoch: int
    selection: float
    networks: list[tuple[MainNet, MetaNet]]


class Snapshots:
    """What a training leaves after each epoch, and what an earlier one left.

    Args:
        workspace: The run directory.
        fingerprint: Of all that decides what training gives.
        state: What an earlier run with this fingerprint left; None: training starts anew.
        writes: Whether this process writes; of several that train together the first one does.
    """

    def __init__(
        self,
        workspace: Workspace,
        *,
        fingerprint: str,
        state: Mapping[str, Any] | None,
        writes: bool = True,
    ) -> None:
        self._workspace = workspace
        self._fingerprint = fingerprint
        self._state = state
        self._writes = writes
        self._log: str = state["log"] if state else ""

    @staticmethod
    def open(workspace: Workspace, fingerprint: str, reporter: Reporter) -> Snapshots:
        """Looks for the state of an earlier run; says where there is one that cannot be used."""
        remove_leftovers(workspace.root)
        remove_leftovers(workspace.state.parent)
        state = None
        if workspace.state.exists():
            try:
                state = read_state(workspace.state)
            except RunError as error:
                reporter.warn(f"Training starts anew: {error.message}")
            if state is not None and state.get("fingerprint") != fingerprint:
                state = None
                reporter.note(
                    "Training starts anew: inputs, settings or versions are not those of the last."
                )
        return Snapshots(workspace, fingerprint=fingerprint, state=state)

    @staticmethod
    def beside(workspace: Workspace, *, resumed: bool) -> Snapshots:
        """Looks for what the first of several processes goes on from; writes nothing.

        Raises:
            RunError: It is not there: the run directory is another one here.
        """
        state = read_state(workspace.state) if resumed else None
        return Snapshots(workspace, fingerprint="", state=state, writes=False)

    @property
    def resumed(self) -> bool:
        """Whether training goes on where an earlier run left it."""
        return self._state is not None

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        return self._state is not None and self._state["finished"]

    def start(self, training: CoTraining) -> Best | None:
        """Brings training to where the earlier run left it; returns the best snapshot so far."""
        if self._writes:
            with replace_file(self._workspace.metrics) as temporary:
                temporary.write_text(self._log, encoding="utf-8")
        if self._state is None:
            return None
        training.load_state_dict(self._state["training"])
        best = self._state["best"]
        networks = best_networks(training)
        for nets, states in zip(networks, best["networks"], strict=True):
            for net, state in zip(nets, states, strict=True):
                net.load_state_dict(state)
        return Best(best["epoch"], best["selection"], networks)

    def write(
        self, training: CoTraining, report: EpochReport, best: Best, *, finished: bool
    ) -> None:
        """Writes what is left after an epoch."""
        if not self._writes:
            return
        lines = _lines(report)
        self._log += lines
        with self._workspace.metrics.open("a", encoding="utf-8") as file:
            file.write(lines)
        self._write_last(training)
        write_state(
            {
                "fingerprint": self._fingerprint,
                "finished": finished,
                "training": training.state_dict(),
                "best": {
                    "epoch": best.epoch,
                    "selection": best.selection,
                    "networks": [[net.state_dict() for net in nets] for nets in best.networks],
                },
                "log": self._log,
            },
            self._workspace.state,
        )

    def _write_last(self, training: CoTraining) -> None:
        from safetensors.torch import save_file

        last = [(learner.average_net, learner.meta_net) for learner in training.learners]
        tensors = network_tensors(last)
        with replace_file(self._workspace.last) as temporary:
            save_file(
                {name: value.cpu().contiguous() for name, value in tensors.items()}, temporary
            )


def best_networks(training: CoTraining) -> list[tuple[MainNet, MetaNet]]:
    """Copies the networks as they score now."""
    return [
        (copy.deepcopy(learner.average_net), copy.deepcopy(learner.meta_net))
        for learner in training.learners
    ]


def training_fingerprint(tables: TrainingTables, config: RunConfig, device: str) -> str:
    """Digests all that decides what training gives: tables, settings, versions, kind of device.

    The tables themselves are read, so it does not matter where they came from.
    """
    decides = {
        "layout": _LAYOUT,
        "versions": package_versions(),
        "device": torch.device(device).type,
        "config": config.model_dump(
            mode="json",
            include={"seed", "model", "train", "purify"},
            exclude={"purify": {"near_misses"}},  # looked at when all is trained
        ),
        "tokenizer": tables.tokenizer,
    }
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode())
    images, captions = tables.targets
    sides = (tables.pool, *tables.meta, *tables.held_out)
    tensors = [
        *tables.features,
        tables.identities,
        torch.from_numpy(tables.probe_matched),
        *(rows for pairs in sides for rows in (pairs.image_rows, pairs.text_rows)),
        *([images] if images is not None else []),
        *([captions.ids] if captions is not None else []),
    ]
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _lines(report: EpochReport) -> str:
    """The lines of an epoch: some of its steps, then itself."""
    epoch = {name: value for name, value in asdict(report).items() if name != "steps"}
    objects = [
        *({"kind": "step", **asdict(step)} for step in report.steps),
        {"kind": "epoch", **epoch},
    ]
    return "".join(json.dumps(item) + "\n" for item in objects)
