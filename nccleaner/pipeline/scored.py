"""Scores of one shard: computing, writing, reading back, and knowing whom they belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nccleaner.data.features import FeaturePart
from nccleaner.data.metadata import first_line
from nccleaner.errors import RunError
from nccleaner.files import write_parquet
from nccleaner.records import OK, Shard

if TYPE_CHECKING:
    from nccleaner.purify.scoring import Scorer
    from nccleaner.train.pairs import Features, Pairs

SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("key", pa.string()),
        ("similarity", pa.float32()),
        ("corrected_similarity", pa.float32()),
        ("clean_probability", pa.float32()),
        ("fitted", pa.bool_()),
        ("status", pa.string()),
    ]
)
_SCORER, _SOURCE = b"nccleaner.scorer", b"nccleaner.source"


def features_of(part: FeaturePart, scorer: Scorer, *, device: str, max_tokens: int) -> Features:
    """Returns what the networks take of a part's images and captions.

    Where captions come as tokens, each pair has a caption row of its own.
    """
    import torch

    from nccleaner.encoders.tokens import read_tokenizer
    from nccleaner.train.pairs import Features

    images = torch.from_numpy(part.take("image")).to(device)
    if scorer.tokenizer:
        captions = part.samples.filter(is_pair(part))["caption"].to_pylist()
        tokens = read_tokenizer(scorer.tokenizer).encode(captions, max_tokens=max_tokens)
        return Features(images, torch.from_numpy(tokens).to(device))
    return Features(images, torch.from_numpy(part.take("text")).to(device))


def pairs_of(part: FeaturePart, scorer: Scorer, *, device: str) -> Pairs:
    """Returns the pairs of a part as rows of `features_of`."""
    import torch

    from nccleaner.train.pairs import Pairs

    samples = part.samples.filter(is_pair(part))
    image_rows = torch.from_numpy(samples["image_row"].to_numpy().astype(np.int64))
    if scorer.tokenizer:
        text_rows = torch.arange(len(image_rows))
    else:
        text_rows = torch.from_numpy(samples["text_row"].to_numpy().astype(np.int64))
    return Pairs(image_rows.to(device), text_rows.to(device))


def is_pair(part: FeaturePart) -> pa.ChunkedArray:
    """Tells which samples of a part are pairs."""
    return pc.equal(part.samples["status"], OK)


def score_part(
    shard: Shard,
    part: FeaturePart,
    scorer: Scorer,
    *,
    pool: pa.Table,
    device: str,
    max_tokens: int,
    advance: Callable[[int], None],
) -> pa.Table:
    """Scores one shard: one row a sample, rejects without scores.

    Args:
        shard: The shard.
        part: Its features.
        scorer: Scores pairs.
        pool: `key` and `belief` of the shard's samples that the networks were trained on.
        device: Where to compute.
        max_tokens: Of a caption, where captions come as tokens.
        advance: Takes how many samples are done since the last call.

    Raises:
        RunError: Features or scores are not finite.
    """
    from nccleaner.pipeline.pool import image_identities

    samples = part.samples
    chosen = is_pair(part).to_numpy()
    belief = _belief(samples["key"], pool)
    belief[~chosen] = np.nan
    pairs = pairs_of(part, scorer, device=device)
    identities = image_identities(_image_digests(part)).to(device)
    evidence = scorer.gather(
        features_of(part, scorer, device=device, max_tokens=max_tokens),
        pairs,
        identities=identities,
        advance=advance,
    )
    if not evidence.is_finite:
        raise RunError(
            f"The scorer gives pairs of shard {shard.name} scores that are not finite: its file is "
            "damaged, or its training went astray.",
            "Run `nccleaner fit` again.",
        )
    scores = scorer.score(evidence, belief=belief[chosen])
    advance(len(chosen) - len(pairs))

    def column(values: npt.NDArray[np.float32]) -> pa.Array:
        spread = np.zeros(len(chosen), dtype=np.float32)
        spread[chosen] = values
        return pa.array(spread, pa.float32(), mask=~chosen)

    columns = [
        pa.array([shard.name] * len(chosen), pa.string()),
        samples["key"],
        *(column(values) for values in scores),
        pa.array(~np.isnan(belief)),
        samples["status"],
    ]
    return pa.table(columns, schema=SCHEMA)


def _belief(keys: pa.ChunkedArray, pool: pa.Table) -> npt.NDArray[np.float32]:
    """How much training believed each sample; not a number where it is not in the pool."""
    place = pc.index_in(keys, value_set=pool["key"].combine_chunks())
    belief: npt.NDArray[np.float32] = (
        pool["belief"].combine_chunks().take(place.combine_chunks()).to_numpy(zero_copy_only=False)
    )
    return belief.astype(np.float32)


def _image_digests(part: FeaturePart) -> list[str]:
    """The digest of each row of a part's image features."""
    samples = part.samples.filter(is_pair(part))
    rows = samples["image_row"].to_numpy()
    first_rows, first = np.unique(rows, return_index=True)
    assert len(first_rows) == len(part.image), "every stored image belongs to a pair"
    digests: list[str] = samples["image_sha256"].take(pa.array(first)).to_pylist()
    return digests


def write_scores(table: pa.Table, path: Path, shard: Shard, scorer_identity: str) -> None:
    """Writes the scores of a shard with a note of who scored what."""
    note = {_SCORER: scorer_identity.encode(), _SOURCE: _source(shard)}
    write_parquet(table.replace_schema_metadata(note), path)


@contextmanager
def scores_intact(path: Path) -> Iterator[None]:
    """Says of scores that were there a moment ago that they are so no more.

    Raises:
        RunError: What is done inside cannot read them.
    """
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise RunError(
            f"The scores in {path} are gone or damaged: {first_line(error)}.",
            "Run the same command again: they are made anew.",
        ) from error


def has_scores(path: Path, shard: Shard, scorer_identity: str) -> bool:
    """Tells whether the scores of a shard, by this scorer, are there.

    Raises:
        RunError: There are scores of another shard of the same name.
    """
    if not path.exists():
        return False
    try:
        note = pq.read_schema(path).metadata or {}
    except pa.ArrowInvalid:
        return False  # damaged
    if _url(note.get(_SOURCE, b"")) != shard.url:
        raise RunError(
            f"{path} holds scores of another shard of that name, {_url(note.get(_SOURCE, b''))}; "
            f"now it is {shard.url}.",
            "Give these shards a folder of their own with --output DIR.",
        )
    return note.get(_SOURCE) == _source(shard) and note.get(_SCORER) == scorer_identity.encode()


def _source(shard: Shard) -> bytes:
    return f"{shard.url}\n{shard.size_bytes}\n{shard.version}".encode()


def _url(source: bytes) -> str:
    return source.decode().split("\n", maxsplit=1)[0]
