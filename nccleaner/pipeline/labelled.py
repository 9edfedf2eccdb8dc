"""The trusted file against the shards: which pairs are labelled, with the features of each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nccleaner.data.features import TARGET_PX, FeaturePart
from nccleaner.data.images import ImageRejected, Pixels, decode_image, shrink
from nccleaner.data.matching import TrustedMatch, TrustedPair, check_enough, match_trusted
from nccleaner.data.trusted import RowProblem, TrustedTable, read_trusted
from nccleaner.pipeline.backbones import Backbones
from nccleaner.records import Limits, Shard

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
        problems: Rows that are not used, and why.
        warning: What the number of pairs means for the intervals; may be empty.
    """

    pairs: tuple[LabelledPair, ...]
    problems: tuple[RowProblem, ...]
    warning: str


def read_labelled(
    path: Path,
    shards: Sequence[Shard],
    parts: Sequence[FeaturePart],
    *,
    backbones: Backbones,
    limits: Limits,
) -> LabelledPairs:
    """Reads the trusted file, finds its pairs, and encodes what the shards do not hold.

    Raises:
        TrustedError: The file cannot be used, or has too few usable pairs.
    """
    table = read_trusted(path)
    match = match_trusted(table, _catalog(table, shards, parts))
    by_name = {shard.name: part for shard, part in zip(shards, parts, strict=True)}
    usable: list[LabelledPair] = []
    problems = list(match.problems)
    for pair in match.pairs:
        found = (
            _from_file(pair, backbones, limits)
            if pair.image is not None
            else _from_shard(pair, by_name[str(pair.shard)], backbones)
        )
        if isinstance(found, RowProblem):
            problems.append(found)
        else:
            usable.append(found)
    problems.sort(key=lambda problem: problem.row)
    kept: TrustedMatch = replace(
        match, pairs=tuple(item.pair for item in usable), problems=tuple(problems)
    )
    return LabelledPairs(tuple(usable), tuple(problems), check_enough(kept))


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
        samples = part.samples.select(list(_COLUMNS))
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
        text = part.text[row["text_row"]]
    target = None if part.target is None else part.target[row["image_row"]]
    return LabelledPair(pair, row["image_sha256"], part.image[row["image_row"]], text, target)


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
