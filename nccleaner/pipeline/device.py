"""The training tables where the networks are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nccleaner.pipeline.pool import TrainingTables
from nccleaner.purify.frozen import Frozen, FrozenEvidence
from nccleaner.train.pairs import Features, Pairs

# Of a GPU's free memory; networks, optimisers and embeddings take the rest.
_SHARE = 0.5
# The frozen evidence holds the features of all pairs, standardises them, and multiplies them.
_FLOAT32_COPIES = 3
_BLOCK_PAIRS = 65_536


@dataclass(frozen=True, slots=True)
class DeviceTables:
    """The training tables on the device.

    Attributes:
        tables: As they were built; what is small stays on the CPU.
        features: Images and captions; on the device where they fit, else memory-mapped.
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
        features = tables.features
        if torch.device(device).type != "cuda" or fits(
            tables, free_bytes=torch.cuda.mem_get_info(device)[0]
        ):
            features = Features(features.images.to(device), features.texts.to(device))
        return DeviceTables(
            tables,
            features,
            tables.identities.to(device),
            _move(tables.pool, device),
            len(tables.probe_matched),
        )

    @property
    def device(self) -> torch.device:
        """Where pairs and networks are."""
        return self.pool.image_rows.device

    def at_features(self) -> DeviceTables:
        """Returns the tables where the features are: on the CPU where they do not fit."""
        where = self.features.images.device
        return self if where == self.device else DeviceTables.on(self.tables, str(where))

    def evidence(self, frozen: FrozenEvidence, pairs: Pairs) -> Tensor:
        """Returns what frozen features say of pairs that are on the device, [n, 3]."""
        blocks = zip(
            torch.split(pairs.image_rows, _BLOCK_PAIRS),
            torch.split(pairs.text_rows, _BLOCK_PAIRS),
            strict=True,
        )
        return torch.cat([frozen.of(self.frozen(Pairs(*block))) for block in blocks])

    def frozen(self, pairs: Pairs) -> Frozen:
        """Returns pairs that are on the device by their frozen features."""
        images, texts = self.features.of(pairs)
        return Frozen(images.float(), texts.float(), self.identities[pairs.image_rows])

    def on_device(self, pairs: Pairs) -> Pairs:
        """Moves pairs to where the networks are."""
        return _move(pairs, str(self.device))


def fits(tables: TrainingTables, *, free_bytes: int) -> bool:
    """Tells whether features fit on a device beside what the frozen evidence makes of them."""
    images, texts = tables.features
    row_bytes = sum(table[0].numel() * 4 for table in (images, texts))
    return (
        images.nbytes + texts.nbytes + _FLOAT32_COPIES * len(tables.pool) * row_bytes
        <= _SHARE * free_bytes
    )


def _move(pairs: Pairs, device: str) -> Pairs:
    return Pairs(pairs.image_rows.to(device), pairs.text_rows.to(device))
