"""The trusted file against the shards: which pairs are labelled, with the features of each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nccleaner.data.features import TARGET_PX, FeaturePart
from nccleaner.data.images import ImageRejected, Pixels, decode_image, shrink
from nccleaner.data.matching import TrustedMatch, TrustedPair, check_enough, match_trusted
from nccleaner.data.trusted import RowProblem, TrustedTable
from nccleaner.errors import TrustedError
from nccleaner.pipeline.backbones import Backbones
from nccleaner.records import Limits, Shard

LABEL_SCHEMA = pa.schema([("shard", pa.string()), ("key", pa.string()), ("label", pa.int8())])

# Mismatched pairs that are made of one trusted pair; its caption suits few other images.
EXCHANGES = 3

_COLUMNS = ("key", "uid", "url", "caption", "status")


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """A trusted pair with what its features are made from.

    Attributes:
        pair: What the trusted file says.
        image_sha256: Of the encoded image.
        image: [f] float16, the image's feature.
        text: [l] float16, the caption's feature; None where captions come as tokens.
        target: [64, 64, 3], the image, small; None where the features have none.
    """

    pair: TrustedPair
    image_sha256: str
    image: npt.NDArray[np.float16]
    text: npt.NDArray[np.float16] | None
    target: Pixels | None = None


@dataclass(frozen=True, slots=True)
class LabelledPairs:
    """All usable trusted pairs.

    Attributes:
        pairs: By row of the file.
        set_aside: Those that no fit may see as trusted; ordinary pairs of the shards to it.
        problems: Rows that are not used, and why.
        warning: What the number of pairs means for the intervals; may be empty.
    """

    pairs: tuple[LabelledPair, ...]
    set_aside: tuple[LabelledPair, ...]
    problems: tuple[RowProblem, ...]
    warning: str


def read_labelled(
    table: TrustedTable,
    shards: Sequence[Shard],
    parts: Sequence[FeaturePart],
    *,
    backbones: Backbones,
    limits: Limits,
    sample: float,
    seed: int,
) -> LabelledPairs:
    """Finds the pairs of the trusted file, and encodes what the shards do not hold.

    Args:
        table: What the file says.
        shards: The input.
        parts: Their features.
        backbones: Encode what the shards do not hold.
        limits: Of images.
        sample: Share of the pairs that is set aside, in [0, 1); not 0 only where the file labels a
            random sample of the shards.
        seed: Of the draw.

    Raises:
        TrustedError: The file has too few usable pairs, or has pairs that are not in the shards
            where it should be a sample of them.
    """
    match = match_labels(table, shards, parts)
    by_name = {shard.name: part for shard, part in zip(shards, parts, strict=True)}
    usable: list[LabelledPair] = []
    problems = list(match.problems)
    # Shard by shard: what is read of one goes before the next is read.
    for shard, pairs_of_shard in groupby(sorted(match.pairs, key=_shard_of), key=_shard_of):
        part = by_name[shard].unread() if shard else None
        for pair in pairs_of_shard:
            found = (
                _from_file(pair, backbones, limits)
                if part is None
                else _from_shard(pair, part, backbones)
            )
            if isinstance(found, RowProblem):
                problems.append(found)
            else:
                usable.append(found)
    usable.sort(key=lambda item: item.pair.row)
    problems.sort(key=lambda problem: problem.row)
    aside = _draw(usable, sample, seed) if sample else []
    taken = set(aside)
    pairs = tuple(item for place, item in enumerate(usable) if place not in taken)
    kept: TrustedMatch = replace(
        match, pairs=tuple(item.pair for item in pairs), problems=tuple(problems)
    )
    warning = check_enough(kept)
    return LabelledPairs(pairs, tuple(usable[place] for place in aside), tuple(problems), warning)


def match_labels(
    table: TrustedTable, shards: Sequence[Shard], parts: Sequence[FeaturePart]
) -> TrustedMatch:
    """Finds the pairs of a file of labels in the shards."""
    return match_trusted(table, _catalog(table, shards, parts))


def is_of_shards(pair: TrustedPair) -> bool:
    """Tells whether a pair is in the shards as it was labelled."""
    return pair.shard is not None and not pair.overrides_caption


def label_table(pairs: Iterable[TrustedPair]) -> pa.Table:
    """Returns `shard`, `key` and `label` of the pairs that are in the shards as labelled."""
    rows = [
        {"shard": pair.shard, "key": pair.key, "label": pair.label}
        for pair in pairs
        if is_of_shards(pair)
    ]
    return pa.Table.from_pylist(rows, schema=LABEL_SCHEMA)


def _shard_of(pair: TrustedPair) -> str:
    """Names the shard of a pair; empty where its image has a file of its own."""
    return pair.shard or ""


def _draw(usable: Sequence[LabelledPair], share: float, seed: int) -> list[int]:
    """Draws the places of the pairs that are set aside; ascending."""
    strangers = [item.pair.row for item in usable if not is_of_shards(item.pair)]
    if strangers:
        raise TrustedError(
            f"trusted.sample is {share:g}, so the trusted file should label a random sample of the "
            f"shards, but {len(strangers)} of its pairs are not in them as labelled; the first is "
            f"row {strangers[0]}.",
            "Leave those rows out, or trusted.sample at 0.",
        )
    order = np.random.default_rng(seed).permutation(len(usable))
    return sorted(order[: round(share * len(usable))].tolist())


def _catalog(
    table: TrustedTable, shards: Sequence[Shard], parts: Sequence[FeaturePart]
) -> pa.Table:
    """Only the samples that a row may name, so that memory does not grow with the shards."""
    named = {
        by: pa.array(sorted({row.value for row in table.rows if row.by == by}), pa.string())
        for by in ("key", "uid", "url")
    }
    found = []
    for shard, part in zip(shards, parts, strict=True):
        samples = part.read_samples(list(_COLUMNS))
        mask = pa.array(np.zeros(samples.num_rows, dtype=bool))
        for by, values in named.items():
            mask = pc.or_(mask, pc.is_in(samples[by], value_set=values))
        chosen = samples.filter(mask)
        found.append(
            chosen.add_column(0, "shard", pa.array([shard.name] * chosen.num_rows, pa.string()))
        )
    return pa.concat_tables(found)


def _from_shard(
    pair: TrustedPair, part: FeaturePart, backbones: Backbones
) -> LabelledPair | RowProblem:
    samples = part.samples
    is_it = pc.and_(pc.equal(samples["key"], pair.key), pc.equal(samples["status"], "ok"))
    row = samples.filter(is_it).slice(0, 1).to_pylist()[0]
    if part.text is None:
        text = None
    elif pair.overrides_caption:
        text = _encode_caption(pair.caption, backbones)
    else:
        (text,) = part.take("text", np.array([row["text_row"]]))
    target = None if part.target is None else part.target[row["image_row"]]
    (image,) = part.take("image", np.array([row["image_row"]]))
    return LabelledPair(pair, row["image_sha256"], image, text, target)


def _from_file(
    pair: TrustedPair, backbones: Backbones, limits: Limits
) -> LabelledPair | RowProblem:
    assert pair.image is not None
    try:
        data = pair.image.read_bytes()
        pixels = decode_image(data, spec=backbones.image.spec, limits=limits)
    except OSError as error:
        return RowProblem(pair.row, f"the image cannot be read: {error.strerror}")
    except ImageRejected as rejected:
        return RowProblem(pair.row, f"the image is {rejected.reason}: {rejected.detail}")
    return LabelledPair(
        pair,
        hashlib.sha256(data).hexdigest(),
        backbones.image.encode(pixels[None])[0].astype(np.float16),
        _encode_caption(pair.caption, backbones),
        shrink(pixels, size_px=TARGET_PX),
    )


def _encode_caption(caption: str, backbones: Backbones) -> npt.NDArray[np.float16] | None:
    if backbones.text is None:
        return None
    feature: npt.NDArray[np.float16] = backbones.text.encode([caption])[0].astype(np.float16)
    return feature
