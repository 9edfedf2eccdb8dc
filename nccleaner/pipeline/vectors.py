"""The kept pairs in the joint space: manifests and features in, what indexes are built from out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from nccleaner.data.features import FeaturePart
from nccleaner.encoders.tokens import read_tokenizer
from nccleaner.errors import RunError
from nccleaner.output.index.opening import Modality
from nccleaner.output.manifests import MANIFEST_FOLDER, names_in
from nccleaner.pipeline.score import Scoring
from nccleaner.pipeline.scored import is_pair
from nccleaner.records import Shard

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _KeptOfShard:
    """Kept pairs of one shard: `count` rows of the indexes, from `first` on."""

    manifest: Path
    part: FeaturePart
    first: int
    count: int


class KeptVectors:
    """The embeddings of the kept pairs, computed whenever they are asked for; rows have length 1.

    Args:
        scoring: The run that was purged.
        shards: What was purged, in that order.
        parts: Their features.

    Raises:
        RunError: A manifest is missing, or not written by nccleaner.
    """

    def __init__(
        self, scoring: Scoring, shards: Sequence[Shard], parts: Sequence[FeaturePart]
    ) -> None:
        self._scoring = scoring
        self._kept: list[_KeptOfShard] = []
        self.count = 0
        for shard, part in zip(shards, parts, strict=True):
            path = scoring.target.clean / MANIFEST_FOLDER / f"{shard.name}.parquet"
            if not path.is_file():
                raise RunError(f"{path} is missing.", "Run `nccleaner purge` again.")
            count = pq.read_metadata(path).num_rows
            self._kept.append(_KeptOfShard(path, part, self.count, count))
            self.count += count

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        scorer = self._scoring.scorer
        return len(scorer.networks) * scorer.architecture.joint_width

    def names(self) -> Iterator[tuple[str, Sequence[str]]]:
        """Yields shard after shard its name and the keys of its kept pairs."""
        for kept in self._kept:
            yield kept.manifest.stem, _keys(kept).to_pylist()

    def blocks(self, modality: Modality) -> Iterator[Vectors]:
        """Yields the vectors [n, dim] of one shard after the other."""
        for kept in self._kept:
            yield self._embed(kept, modality, np.arange(kept.count))

    def at(self, modality: Modality, rows: Rows) -> Vectors:
        """Returns the vectors [n, dim] of n rows, which ascend."""
        found = [np.empty((0, self.dim), np.float32)]
        for kept in self._kept:
            low, high = np.searchsorted(rows, [kept.first, kept.first + kept.count])
            if low < high:
                found.append(self._embed(kept, modality, rows[low:high] - kept.first))
        return np.concatenate(found)

    def _embed(self, kept: _KeptOfShard, modality: Modality, rows: Rows) -> Vectors:
        listed = pc.is_in(kept.part.samples["key"], value_set=_keys(kept).combine_chunks())
        pairs = np.flatnonzero(pc.and_(listed, is_pair(kept.part)).to_numpy())
        if len(pairs) != kept.count:
            raise RunError(
                f"{kept.manifest} lists {kept.count} pairs; the shard has {len(pairs)} of them.",
                "Run `nccleaner purge` again.",
            )
        return embed_samples(self._scoring, kept.part, modality, pairs[rows])


def embed_samples(scoring: Scoring, part: FeaturePart, modality: Modality, rows: Rows) -> Vectors:
    """Embeds the images or the captions of some pairs.

    Args:
        scoring: A finished fit.
        part: The features of a shard.
        modality: Which half of a pair.
        rows: Which of its samples, n values; only pairs have features.

    Returns:
        Vectors [n, dim] of length 1; the inner product of the two of a pair is its `similarity`.
    """
    scorer, samples = scoring.scorer, part.samples.take(pa.array(rows))
    if modality == "text" and scorer.tokenizer:
        max_tokens = scoring.description.config.model.max_tokens
        encoder = read_tokenizer(scorer.tokenizer)
        tokens = encoder.encode(samples["caption"].to_pylist(), max_tokens=max_tokens)
        return as_array(scorer.embed_texts(torch.from_numpy(tokens).to(scoring.device)))
    features = part.image if modality == "image" else part.text
    assert features is not None, "captions that are no tokens have features"
    # What several pairs share is embedded once.
    distinct, places = np.unique(samples[f"{modality}_row"].to_numpy(), return_inverse=True)
    taken = torch.from_numpy(features[distinct]).to(scoring.device)
    embed = scorer.embed_images if modality == "image" else scorer.embed_texts
    return as_array(embed(taken))[places]


def _keys(kept: _KeptOfShard) -> pa.ChunkedArray:
    with pq.ParquetFile(kept.manifest) as file:
        name = names_in(kept.manifest, file.schema_arrow)["key"]
        return file.read([name])[name].cast(pa.string())


def as_array(embedding: torch.Tensor) -> Vectors:
    """Takes an embedding [n, dim] to the CPU."""
    array: Vectors = embedding.cpu().numpy()
    return array
