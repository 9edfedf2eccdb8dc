"""The noisy pairs of the pool: which samples of the shards, column by column."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nccleaner.data.features import FeaturePart
from nccleaner.pipeline.labelled import LabelledPair
from nccleaner.records import OK, Shard

Rows = npt.NDArray[np.int64]

_DRAWN = np.dtype([("number", np.float64), ("part", np.int64), ("row", np.int64)])


@dataclass(frozen=True, slots=True)
class PoolRows:
    """The noisy pairs that were chosen, in the order of the shards.

    Attributes:
        part: [n], the part of each pair, ascending.
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
        held_out: Sequence[str],
        max_pairs: int,
        seed: int,
    ) -> PoolRows:
        """Chooses all pairs that are not trusted, or a random `max_pairs` of them.

        Args:
            shards: The input.
            parts: Their features.
            labelled: The trusted pairs.
            held_out: SHA-256 of images of which no pair is chosen, whatever its caption.
            max_pairs: At most so many.
            seed: Of the draw.
        """
        trusted = {(item.image_sha256, item.pair.caption.strip()) for item in labelled}
        free = (_free(part, trusted, frozenset(held_out)) for part in parts)
        chosen = draw_rows(free, max_pairs, seed=seed)
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

    def samples_of(self, own: Rows, planted: Sequence[LabelledPair]) -> pa.Table:
        """The samples of the pool with their rows in it, where planted pairs follow the others.

        Args:
            own: Which of the chosen pairs are in the pool as they are.
            planted: Trusted pairs. Those that are planted as the shards have them are samples.
        """
        samples = self.samples.take(pa.array(own)).append_column(
            "row", pa.array(np.arange(len(own)))
        )
        inside = [
            {"shard": item.pair.shard, "key": item.pair.key, "row": row}
            for row, item in enumerate(planted, start=len(own))
            if item.pair.shard is not None and not item.pair.overrides_caption
        ]
        return pa.concat_tables([samples, pa.Table.from_pylist(inside, schema=samples.schema)])


def draw_rows(usable: Iterable[npt.NDArray[np.bool_]], count: int, *, seed: int) -> list[Rows]:
    """Draws usable rows, each with the same chance, from masks that come one by one.

    Every row gets a random number by its mask and place, and the lowest are drawn: no more is held
    than twice `count` numbers and one mask.

    Args:
        usable: A mask for each part.
        count: How many to draw, at least 1.
        seed: Of the numbers.

    Returns:
        The rows drawn of each part, ascending; in all exactly `count`, or as many as are usable.
    """
    held: list[npt.NDArray[np.void]] = []
    waiting, highest, parts = 0, 1.0, 0
    for mask in usable:
        numbers = np.random.default_rng([seed, parts]).random(len(mask))
        rows = np.flatnonzero(mask & (numbers < highest))
        drawn = np.empty(len(rows), _DRAWN)
        drawn["number"], drawn["part"], drawn["row"] = numbers[rows], parts, rows
        held.append(drawn)
        waiting, parts = waiting + len(rows), parts + 1
        if waiting > 2 * count:  # seldom: it looks at all that are held
            held = [_lowest(held, count)]
            waiting, highest = count, held[0]["number"].max()
    drawn = _lowest(held, count)
    drawn = drawn[np.lexsort((drawn["row"], drawn["part"]))]
    return np.split(drawn["row"], np.searchsorted(drawn["part"], np.arange(1, parts)))


def _lowest(held: Sequence[npt.NDArray[np.void]], count: int) -> npt.NDArray[np.void]:
    """The drawn rows of the lowest numbers, in no order; all where there are no more."""
    drawn = np.concatenate(held)
    if len(drawn) <= count:
        return drawn
    return drawn[np.argpartition(drawn["number"], count - 1)[:count]]


def _free(
    part: FeaturePart, trusted: Set[tuple[str, str]], held_out: Set[str]
) -> npt.NDArray[np.bool_]:
    """Marks the pairs of a part that are not trusted, and show no held-out image.

    A copy of a trusted pair under another key would be a trusted pair in the pool; so would one
    whose caption differs in white space around it, which the trusted file does not keep.
    """
    samples = part.read_samples(["status", "caption", "image_sha256"])
    images = pa.array(sorted({sha256 for sha256, _ in trusted}), pa.string())
    known = pc.is_in(samples["image_sha256"], value_set=images).to_numpy()
    free: npt.NDArray[np.bool_] = pc.equal(samples["status"], OK).to_numpy().copy()
    for row in np.flatnonzero(known & free):
        image, caption = samples["image_sha256"][row].as_py(), samples["caption"][row].as_py()
        free[row] = image not in held_out and (image, caption.strip()) not in trusted
    return free
