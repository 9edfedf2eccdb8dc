"""What training tells of its steps and epochs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a step did.

    Attributes:
        epoch: Counted from 1.
        network: Counted from 0.
        step: Of this network, counted from 1 over all epochs.
        main_loss: Before the step.
        meta_loss: Before the step.
        main_rate: The main network's learning rate.
    """

    epoch: int
    network: int
    step: int
    main_loss: float
    meta_loss: float
    main_rate: float


@dataclass(frozen=True, slots=True)
class EpochReport:
    """What an epoch did.

    Attributes:
        epoch: Counted from 1.
        main_loss: Mean of all networks.
        meta_loss: Mean of all networks.
        reconstruction: Losses of the reconstructions, means of all networks; empty without.
        believed: Mean weight of the pairs of the pool in the next epoch.
        selection: AUROC of held-out matched pairs against all other pairings of their images and
            captions, in [0, 1]; the higher the better the snapshot.
        steps: Every so many of its steps.
    """

    epoch: int
    main_loss: float
    meta_loss: float
    reconstruction: Mapping[str, float]
    believed: float
    selection: float
    steps: tuple[StepReport, ...]
