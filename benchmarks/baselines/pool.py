"""Feature parts of shards to the tables that the baselines learn from."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from nccleaner.data.features import FeaturePart
from nccleaner.pipeline.pool import image_identities
from nccleaner.purify.frozen import Frozen
from nccleaner.records import OK
from nccleaner.train.pairs import Features, Pairs

Names = list[tuple[str, str]]  # shard and key


@dataclass(frozen=True, slots=True)
class Pool:
    """All pairs of some shards.

    Attributes:
        features: Images and captions, each once.
        identities: [images] int64, a number from the content of each image.
        pairs: [n], as rows of `features`.
        names: [n], shard and key of each pair.
    """

    features: Features
    identities: Tensor
    pairs: Pairs
    names: Names

    @staticmethod
    def read(parts: Sequence[FeaturePart], *, device: str) -> Pool:
        """Reads the parts of shards, trusted pairs and all."""
        tables = [part.samples.filter(pc.equal(part.samples["status"], OK)) for part in parts]
        samples = pa.concat_tables(tables)
        part_of = np.repeat(np.arange(len(parts)), [table.num_rows for table in tables])
        image_of, digests = _factorise(samples["image_sha256"])
        text_of, _ = _factorise(samples["caption"])
        images = _gather([part.image for part in parts], part_of, samples["image_row"], image_of)
        texts = _gather([part.text for part in parts], part_of, samples["text_row"], text_of)
        names = [
            (part.report.shard, key)
            for part, table in zip(parts, tables, strict=True)
            for key in table["key"].to_pylist()
        ]
        return Pool(
            Features(images.to(device), texts.to(device)),
            image_identities(digests).to(device),
            Pairs(torch.from_numpy(image_of).to(device), torch.from_numpy(text_of).to(device)),
            names,
        )

    def frozen(self) -> Frozen:
        """Returns the pairs by their frozen features."""
        return Frozen(
            self.features.images[self.pairs.image_rows].float(),
            self.features.texts[self.pairs.text_rows].float(),
            self.identities[self.pairs.image_rows],
        )


@dataclass(frozen=True, slots=True)
class Truth:
    """Which pairs of a pool are mismatched, as far as that is measured.

    Attributes:
        rows: [m], the pairs of the pool that are not trusted.
        mismatched: [m] bool.
    """

    rows: npt.NDArray[np.int64]
    mismatched: npt.NDArray[np.bool_]

    @staticmethod
    def read(path: Path, names: Names) -> Truth:
        """Reads `truth.csv`, which leaves out the trusted pairs."""
        with path.open(encoding="utf-8", newline="") as file:
            told = {(row["shard"], row["key"]): row["mismatched"] for row in csv.DictReader(file)}
        rows = np.array([row for row, name in enumerate(names) if name in told])
        return Truth(rows, np.array([told[names[row]] == "1" for row in rows]))


def _factorise(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Numbers values by first appearance."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def _gather(
    tables: Sequence[npt.NDArray[np.float16] | None],
    part_of: npt.NDArray[np.int64],
    local: pa.ChunkedArray,
    row_of: npt.NDArray[np.int64],
) -> Tensor:
    """Returns one row for each distinct image or caption."""
    first = tables[0]
    assert first is not None, "the benchmark encodes captions before training"
    table = np.empty((int(row_of.max()) + 1, first.shape[1]), np.float16)
    rows = local.to_numpy()
    for part, features in enumerate(tables):
        mine = part_of == part
        assert features is not None
        table[row_of[mine]] = features[rows[mine]]
    return torch.from_numpy(table)
