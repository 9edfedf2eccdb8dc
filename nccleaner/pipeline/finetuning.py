"""Fine-tuning of the image backbone after the other phases; what comes of it is one file.

    checkpoints/fine_tuned.safetensors   backbone.<network>.…, main_net.<network>.…

With this file the run has another image encoder, whose features it extracts again.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from nccleaner.config import RunConfig
from nccleaner.encoders.finetuned import BACKBONE
from nccleaner.encoders.images import ImageNetwork
from nccleaner.files import replace_file
from nccleaner.model.mfsr import MainNet
from nccleaner.model.mscn import MetaNet
from nccleaner.pipeline.device import DeviceTables
from nccleaner.pipeline.fitting import Trained
from nccleaner.pipeline.labelled import LabelledPair
from nccleaner.pipeline.pixels import write_pixels
from nccleaner.pipeline.pool import TrainingTables
from nccleaner.pipeline.reporter import Reporter
from nccleaner.pipeline.training import cudnn_settings, loss_weights, training_precision
from nccleaner.pipeline.workspace import Workspace
from nccleaner.purify.scoring import Scorer
from nccleaner.records import ImageSpec, Shard
from nccleaner.train.finetune import FineTuning, Tuned, TuningReport
from nccleaner.train.networks import read_own_backbone

Networks = Sequence[tuple[MainNet, MetaNet]]


def fine_tune_scorer(
    trained: Trained,
    tables: TrainingTables,
    shards: Sequence[Shard],
    labelled: Sequence[LabelledPair],
    *,
    network: ImageNetwork,
    spec: ImageSpec,
    config: RunConfig,
    device: str,
    fingerprint: str,
    workspace: Workspace,
    folder: Path,
    reporter: Reporter,
) -> Trained:
    """Fine-tunes the backbone for each network, or takes what an earlier fit made of it.

    Args:
        trained: What the phases before gave.
        tables: What they were trained on.
        shards: The input.
        labelled: The trusted pairs.
        network: Of the image encoder.
        spec: The square of pixels that it expects.
        config: How.
        device: Where.
        fingerprint: Of all that decides what training gives.
        workspace: The run directory; weights and metrics go there.
        folder: Where pixels are kept meanwhile.
        reporter: Hears of it.

    Returns:
        The same with a scorer that reads features of the encoder in `workspace.fine_tuned`.

    Raises:
        ShardError: The images are not in the shards any more.
        TrainingError: Training diverged.
    """
    scorer = trained.scorer
    tuning = read_tuning(workspace.fine_tuned, fingerprint)
    if tuning is None:
        pixels = write_pixels(
            folder / "pixels.npy",
            shards,
            labelled,
            identities=tables.identities,
            spec=spec,
            data=config.data,
            reporter=reporter,
        )
        tuning = fine_tune(
            scorer.networks,
            trained.believed,
            DeviceTables.on(tables, device),
            backbone=network,
            pixels=pixels,
            config=config,
            fingerprint=fingerprint,
            path=workspace.fine_tuned,
            reporter=reporter,
        )
    with workspace.metrics.open("a", encoding="utf-8") as file:
        for report in tuning.reports:
            file.write(json.dumps({"kind": "fine_tune", **asdict(report)}) + "\n")
    return Trained(
        Scorer(
            architecture=replace(scorer.architecture, fine_tuned=True),
            networks=take_tuned(scorer.networks, workspace.fine_tuned),
            frozen=scorer.frozen,
            canonical=scorer.canonical,
            siblings=scorer.siblings,
            judges=None,
            tokenizer=scorer.tokenizer,
        ),
        trained.believed,
        epochs=trained.epochs + len(tuning.reports),
        best_epoch=trained.epochs + tuning.epoch if tuning.epoch else trained.best_epoch,
        held_out_auroc=tuning.selection,
    )


@dataclass(frozen=True, slots=True)
class TuningResult:
    """What fine-tuning gave.

    Attributes:
        fingerprint: Of all that decides it.
        epoch: The one that is kept; 0: none was better than what was there before.
        selection: AUROC on held-out pairs of the networks that are kept, in [0, 1].
        reports: One an epoch.
    """

    fingerprint: str
    epoch: int
    selection: float
    reports: tuple[TuningReport, ...]


def fine_tune(
    networks: Networks,
    believed: Sequence[Tensor],
    data: DeviceTables,
    *,
    backbone: ImageNetwork,
    pixels: Tensor,
    config: RunConfig,
    fingerprint: str,
    path: Path,
    reporter: Reporter,
) -> TuningResult:
    """Trains a copy of the backbone with each network, and writes the best epoch.

    Args:
        networks: As the phases before left them; they are not changed.
        believed: For each network, how much each pair of the pool is believed.
        data: The training tables.
        backbone: In float32.
        pixels: Of all images of the tables.
        config: How.
        fingerprint: Of all that decides the outcome.
        path: Where the file goes.
        reporter: Hears of it.

    Raises:
        TrainingError: Training diverged.
    """
    train = config.train
    tuned = [
        Tuned(copy.deepcopy(backbone).to(data.device), *copy.deepcopy(nets)) for nets in networks
    ]
    tuning = FineTuning(
        networks=tuned,
        pixels=pixels,
        texts=data.features.texts,
        pool=data.pool,
        weights=believed,
        held_out=data.on_device(data.tables.held_out.matched),
        loss_weights=loss_weights(config),
        epochs=train.fine_tune_epochs,
        batch_size=train.batch_size,
        learning_rate=train.fine_tune_learning_rate,
        precision=training_precision(config, data.device),
        seed=config.seed,
    )
    steps = len(tuned) * max(len(data.pool) // train.batch_size, 1) * train.fine_tune_epochs
    best, reports = TuningResult(fingerprint, 0, tuning.selection(), ()), []
    tensors = _tensors(tuned)
    with (
        torch.random.fork_rng([data.device] if data.device.type == "cuda" else []),
        cudnn_settings(config),
        reporter.stage("Fine-tuning the image backbone", steps, "steps") as advance,
    ):
        torch.manual_seed(config.seed)
        for report in tuning.epochs(lambda: advance(1)):
            reports.append(report)
            reporter.note(
                f"Fine-tuning {report.epoch:>2} of {train.fine_tune_epochs}: loss "
                f"{report.main_loss:.3f}, held-out AUROC {report.selection:.4f}"
            )
            if report.selection > best.selection:
                best = TuningResult(fingerprint, report.epoch, report.selection, ())
                tensors = _tensors(tuned)
    result = TuningResult(fingerprint, best.epoch, best.selection, tuple(reports))
    _write(result, tensors, path)
    return result


def read_tuning(path: Path, fingerprint: str) -> TuningResult | None:
    """Returns what an earlier fine-tuning gave; None where none was finished, or another one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            said = json.loads((file.metadata() or {})["nccleaner"])
    except (OSError, SafetensorError, ValueError, LookupError):
        return None
    if said["fingerprint"] != fingerprint:
        return None
    reports = tuple(TuningReport(**report) for report in said["reports"])
    return TuningResult(fingerprint, said["epoch"], said["selection"], reports)


def take_tuned(networks: Networks, path: Path) -> list[tuple[MainNet, MetaNet]]:
    """Returns networks as fine-tuning left them; each reads its own backbone's features."""
    from safetensors.torch import load_file

    tensors = load_file(path)
    taken = []
    for index, (before, meta_net) in enumerate(networks):
        prefix = f"main_net.{index}."
        main_net = copy.deepcopy(before)
        main_net.load_state_dict(
            {
                name.removeprefix(prefix): tensor
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            }
        )
        read_own_backbone(main_net, index)
        taken.append((main_net, meta_net))
    return taken


def _tensors(tuned: Sequence[Tuned]) -> dict[str, Tensor]:
    return {
        f"{kind}.{index}.{name}": tensor.detach().to("cpu", copy=True).contiguous()
        for index, (backbone, main_net, _) in enumerate(tuned)
        for kind, net in ((BACKBONE, backbone), ("main_net", main_net))
        for name, tensor in net.state_dict().items()
    }


def _write(result: TuningResult, tensors: dict[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    with replace_file(path) as temporary:
        save_file(tensors, temporary, metadata={"nccleaner": json.dumps(asdict(result))})
