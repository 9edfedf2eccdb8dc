"""The embeddings of the kept pairs: manifests and features in, what indexes are built from out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nccleaner.data.features import FeaturePart
from nccleaner.errors import RunError
from nccleaner.files import replace_file
from nccleaner.output.index.opening import MODALITIES, Modality
from nccleaner.output.manifests import MANIFEST_FOLDER, names_in
from nccleaner.pipeline.score import Scoring
from nccleaner.pipeline.scored import is_pair
from nccleaner.purify.scorer_file import read_description
from nccleaner.records import Shard

if TYPE_CHECKING:
    import torch

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

# Of so few samples the embeddings are kept: to load the networks takes longer than all else when a
# purge is tried with another cut-off. They take 8 bytes for each number of a vector.
_FEW = 20_000


@dataclass(frozen=True, slots=True)
class _KeptOfShard:
    """Kept pairs of one shard: `count` rows of the indexes, from `first` on."""

    shard: Shard
    manifest: Path
    part: FeaturePart
    first: int
    count: int


class KeptVectors:
    """The embeddings of the kept pairs, computed whenever they are asked for; rows have length 1.

    Those of a small data set are computed once, and kept in a file a shard.

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
            self._kept.append(_KeptOfShard(shard, path.absolute(), part, self.count, count))
            self.count += count
        self._are_few = sum(part.report.samples for part in parts) <= _FEW

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        dim: int = read_description(self._scoring.workspace.scorer)["dim"]
        return dim

    def names(self) -> Iterator[tuple[str, Sequence[str]]]:
        """Yields shard after shard its name and the keys of its kept pairs."""
        for kept in self._kept:
            yield kept.manifest.stem, _keys(kept).to_pylist()

    def blocks(self, modality: Modality) -> Iterator[Vectors]:
        """Yields the vectors [n, dim] of one shard after the other."""
        for place in range(len(self._kept)):
            yield self.block(place, modality)

    def block(self, place: int, modality: Modality) -> Vectors:
        """Returns the vectors [n, dim] of the shard at a place, from 0."""
        kept = self._kept[place]
        return self._embed(kept, modality, np.arange(kept.count))

    def at(self, modality: Modality, rows: Rows) -> Vectors:
        """Returns the vectors [n, dim] of n rows, which ascend."""
        found = np.empty((len(rows), self.dim), np.float32)
        for kept in self._kept:
            low, high = np.searchsorted(rows, [kept.first, kept.first + kept.count])
            if low < high:
                found[low:high] = self._embed(kept, modality, rows[low:high] - kept.first)
        return found

    def _embed(self, kept: _KeptOfShard, modality: Modality, rows: Rows) -> Vectors:
        part = kept.part.unread()
        listed = pc.is_in(part.samples["key"], value_set=_keys(kept).combine_chunks())
        is_of_pair = is_pair(part).to_numpy()
        pairs = np.flatnonzero(listed.to_numpy() & is_of_pair)
        if len(pairs) != kept.count:
            raise RunError(
                f"{kept.manifest} lists {kept.count} pairs; the shard has {len(pairs)} of them.",
                "Run `nccleaner purge` again.",
            )
        if not self._are_few:
            return embed_samples(self._scoring, part, modality, pairs[rows])
        all_pairs = np.flatnonzero(is_of_pair)
        vectors = self._read_or_embed(kept.shard, part, all_pairs)[modality]
        return vectors.take(np.searchsorted(all_pairs, pairs[rows]), axis=0)

    def _read_or_embed(self, shard: Shard, part: FeaturePart, pairs: Rows) -> dict[str, Vectors]:
        """The embeddings of all pairs of a shard, from their file or into it."""
        from safetensors import SafetensorError, safe_open
        from safetensors.numpy import save_file

        scoring = self._scoring
        path = scoring.target.embeddings / f"{shard.name}.safetensors"
        # One text, as safetensors writes several in any order.
        made_from = {"nccleaner": f"{scoring.identity} {scoring.store.fingerprint(shard)}"}
        try:
            with safe_open(path, framework="np") as file:
                if file.metadata() == made_from:
                    return {modality: file.get_tensor(modality) for modality in MODALITIES}
        except (OSError, SafetensorError):
            pass  # not there, or damaged
        vectors: dict[str, Vectors] = {
            modality: embed_samples(scoring, part, modality, pairs) for modality in MODALITIES
        }
        with replace_file(path) as temporary:
            save_file(vectors, temporary, metadata=made_from)
        return vectors


def embed_samples(scoring: Scoring, part: FeaturePart, modality: Modality, rows: Rows) -> Vectors:
    """Embeds the images or the captions of some pairs.

    Args:
        scoring: A finished fit.
        part: The features of a shard.
        modality: Which half of a pair.
        rows: Which of its samples, n values; only pairs have features.

    Returns:
        Vectors [n, dim] of length 1; the inner product of the two of a pair is its `similarity`,
            to 1e-4 where the hardware computes with bfloat16.
    """
    import torch

    from nccleaner.encoders.tokens import read_tokenizer

    scorer, samples = scoring.scorer, part.samples.take(pa.array(rows))
    if modality == "text" and scorer.tokenizer:
        max_tokens = scoring.description.config.model.max_tokens
        encoder = read_tokenizer(scorer.tokenizer)
        tokens = encoder.encode(samples["caption"].to_pylist(), max_tokens=max_tokens)
        return as_array(scorer.embed_texts(torch.from_numpy(tokens).to(scoring.device)))
    # What several pairs share is embedded once.
    distinct, places = np.unique(samples[f"{modality}_row"].to_numpy(), return_inverse=True)
    taken = torch.from_numpy(part.take(modality, distinct)).to(scoring.device)
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
