"""The training tables where the networks are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nccleaner.pipeline.pool import TrainingTables
from nccleaner.purify.frozen import Frozen
from nccleaner.train.pairs import Features, Pairs


@dataclass(frozen=True, slots=True)
class DeviceTables:
    """The training tables on the device.

    Attributes:
        tables: As they were built; what is small stays on the CPU.
        features: Images and captions.
        identities: [images], a number from the content of each image.
        pool: The noisy pairs; the planted probes come last.
        probes: How many probes there are.
    """

    tables: TrainingTables
    features: Features
    identities: Tensor
    pool: Pairs
    probes: int

    @staticmethod
    def on(tables: TrainingTables, device: str) -> DeviceTables:
        """Moves tables to a device."""
        return DeviceTables(
            tables,
            Features(tables.features.images.to(device), tables.features.texts.to(device)),
            tables.identities.to(device),
            _move(tables.pool, device),
            len(tables.probe_matched),
        )

    def frozen(self, pairs: Pairs) -> Frozen:
        """Returns pairs that are on the device by their frozen features."""
        return Frozen(
            self.features.images[pairs.image_rows].float(),
            self.features.texts[pairs.text_rows].float(),
            self.identities[pairs.image_rows],
        )

    def on_device(self, pairs: Pairs) -> Pairs:
        """Moves pairs to where the features are."""
        return _move(pairs, str(self.features.images.device))


def _move(pairs: Pairs, device: str) -> Pairs:
    return Pairs(pairs.image_rows.to(device), pairs.text_rows.to(device))
