"""The noisy pairs of the pool: which samples of the shards, column by column."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nccleaner.data.features import FeaturePart
from nccleaner.pipeline.labelled import LabelledPair
from nccleaner.records import OK, Shard

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PoolRows:
    """The noisy pairs that were chosen, in the order of the shards.

    Attributes:
        part: [n], the part of each pair.
        image_row: [n], in its part.
        text_row: [n], in its part; -1 where captions come as tokens.
        image_sha256: Of each pair.
        captions: Of each pair.
        samples: `shard` and `key` of each pair.
    """

    part: Rows
    image_row: Rows
    text_row: Rows
    image_sha256: list[str]
    captions: list[str]
    samples: pa.Table

    @staticmethod
    def choose(
        shards: Sequence[Shard],
        parts: Sequence[FeaturePart],
        labelled: Sequence[LabelledPair],
        *,
        max_pairs: int,
        seed: int,
    ) -> PoolRows:
        """Chooses all pairs that are not trusted, or a random `max_pairs` of them."""
        trusted = {(item.image_sha256, item.pair.caption) for item in labelled}
        chosen = draw_rows((_free(part, trusted) for part in parts), max_pairs, seed=seed)
        tables = []
        for index, (shard, part, rows) in enumerate(zip(shards, parts, chosen, strict=True)):
            table = part.read_samples(["key", "caption", "image_sha256", "image_row", "text_row"])
            table = table.take(pa.array(rows))
            names = pa.array([shard.name] * len(rows), pa.string())
            numbers = pa.array(np.full(len(rows), index), pa.int64())
            tables.append(table.append_column("shard", names).append_column("part", numbers))
        joined = pa.concat_tables(tables)
        return PoolRows(
            joined["part"].to_numpy(),
            joined["image_row"].to_numpy().astype(np.int64),
            joined["text_row"].to_numpy().astype(np.int64),
            joined["image_sha256"].to_pylist(),
            joined["caption"].to_pylist(),
            joined.select(["shard", "key"]),
        )

    def samples_with(self, probes: Sequence[LabelledPair]) -> pa.Table:
        """The samples of the pool, and of probes that were planted as the shards have them."""
        inside = [
            {"shard": item.pair.shard, "key": item.pair.key}
            for item in probes
            if item.pair.shard is not None and not item.pair.overrides_caption
        ]
        return pa.concat_tables(
            [self.samples, pa.Table.from_pylist(inside, schema=self.samples.schema)]
        )


def draw_rows(usable: Iterable[npt.NDArray[np.bool_]], count: int, *, seed: int) -> list[Rows]:
    """Draws usable rows, each with the same chance, from masks that come one by one.

    Every row gets a random number by its mask and place, and the lowest are drawn: no more is held
    than `count` numbers and one mask.

    Args:
        usable: A mask for each part.
        count: How many to draw, at least 1.
        seed: Of the numbers.

    Returns:
        The rows drawn of each part, ascending; in all exactly `count`, or as many as are usable.
    """
    numbers = np.empty(0)
    places = np.empty((0, 2), dtype=np.int64)  # part and row
    parts = 0
    for mask in usable:
        rows = np.flatnonzero(mask)
        drawn = np.random.default_rng([seed, parts]).random(len(mask))[rows]
        numbers = np.concatenate([numbers, drawn])
        places = np.concatenate([places, np.column_stack([np.full(len(rows), parts), rows])])
        if len(numbers) > count:
            lowest = np.argpartition(numbers, count - 1)[:count]
            numbers, places = numbers[lowest], places[lowest]
        parts += 1
    return [np.sort(places[places[:, 0] == part, 1]) for part in range(parts)]


def _free(part: FeaturePart, trusted: set[tuple[str, str]]) -> npt.NDArray[np.bool_]:
    """Marks the pairs of a part that are not trusted.

    A copy of a trusted pair under another key would be a trusted pair in the pool.
    """
    samples = part.read_samples(["status", "caption", "image_sha256"])
    images = pa.array(sorted({sha256 for sha256, _ in trusted}), pa.string())
    known = pc.is_in(samples["image_sha256"], value_set=images).to_numpy()
    free: npt.NDArray[np.bool_] = pc.equal(samples["status"], OK).to_numpy().copy()
    for row in np.flatnonzero(known & free):
        pair = (samples["image_sha256"][row].as_py(), samples["caption"][row].as_py())
        free[row] = pair not in trusted
    return free
