"""Vectors as an index is built from: shards of them, in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from nccleaner.output.index.building import IndexReport, build_indexes


class SomeVectors:
    """Random pairs of unit vectors whose halves are near each other, in clusters."""

    def __init__(self, counts: Mapping[str, int], *, dim: int = 16, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.counts = counts
        self.dim = dim
        self.count = sum(counts.values())
        centres = rng.normal(size=(20, dim))
        image = centres[rng.integers(20, size=self.count)] + rng.normal(size=(self.count, dim))
        text = image + 0.3 * rng.normal(size=image.shape)
        self.rows = {
            "image": (image / np.linalg.norm(image, axis=1, keepdims=True)).astype(np.float32),
            "text": (text / np.linalg.norm(text, axis=1, keepdims=True)).astype(np.float32),
        }

    def names(self) -> Iterator[tuple[str, Sequence[str]]]:
        for shard, count in self.counts.items():
            yield shard, [f"{number:05d}" for number in range(count)]

    def blocks(self, modality: str) -> Iterator[np.ndarray]:
        ends = np.cumsum(list(self.counts.values()))
        yield from np.split(self.rows[modality], ends[:-1]) if len(ends) else []

    def at(self, modality: str, rows: np.ndarray) -> np.ndarray:
        return self.rows[modality][rows]


def build(
    folder: Path,
    vectors: SomeVectors,
    kind: str = "flat",
    *,
    memory_bytes: int = 1 << 28,
    scorer: str = "scorer",
) -> IndexReport:
    return build_indexes(
        folder,
        vectors,
        kind=kind,
        memory_bytes=memory_bytes,
        scorer=scorer,
        seed=0,
        progress=lambda count: None,
    )
