"""The embeddings of the kept pairs, as clip-retrieval's folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from nccleaner.output.exports.embeddings import EmbeddingFolder
from nccleaner.output.exports.fields import Fields
from nccleaner.output.exports.kept import KeptOfShard, KeptPairs
from nccleaner.pipeline.engines import Advance, Work
from nccleaner.pipeline.reporter import Reporter
from nccleaner.pipeline.score import Scoring
from nccleaner.pipeline.vectors import KeptVectors


def write_embeddings(scoring: Scoring, pairs: KeptPairs, out: Path, reporter: Reporter) -> int:
    """Writes a part for each shard with kept pairs; parts that are there already stay.

    Args:
        scoring: The run that was purged; its engine does the work.
        pairs: What it kept.
        out: The folder, absolute.
        reporter: Hears of progress.

    Returns:
        The number of parts.

    Raises:
        RunError: The features are not those of what was purged.
    """
    filled = [kept for kept in pairs.shards if kept.count]
    folder = EmbeddingFolder(out, len(filled))
    numbers = [number for number in range(len(filled)) if not folder.has(number)]
    todo = [_Part(place, number, filled[number]) for place, number in enumerate(numbers)]
    shards = [part.kept.shard for part in todo]
    vectors = KeptVectors(scoring, shards, scoring.store.parts(shards, reporter))
    job = _WritingOfParts(scoring, vectors, pairs.fields, folder)
    with reporter.stage("Writing clip-retrieval", len(pairs), "pairs") as advance:
        advance(len(pairs) - vectors.count)
        for _ in scoring.store.engine.run(job, todo, advance):
            pass
    return len(filled)


class _Part(NamedTuple):
    """A part to be written: its place among these, its number among all, and its shard."""

    place: int
    number: int
    kept: KeptOfShard


@dataclass(frozen=True, slots=True)
class _WritingOfParts:
    """Writes a part.

    Attributes:
        scoring: The run.
        vectors: Of the parts to be written.
        fields: What each pair has.
        folder: Where parts go.
    """

    scoring: Scoring
    vectors: KeptVectors
    fields: Fields
    folder: EmbeddingFolder

    @property
    def folders(self) -> tuple[Path, ...]:
        """The run directory, and the folders of the export."""
        return self.scoring.target.root.absolute(), *self.folder.folders

    @property
    def device(self) -> str:
        """Of the scorer."""
        return self.scoring.description.config.encoders.device

    @property
    def in_threads(self) -> bool:
        """One set of networks serves all."""
        return False

    def name(self, item: _Part) -> str:
        """Names a shard."""
        return f"shard {item.kept.shard.name}"

    @contextmanager
    def open(self) -> Iterator[Work[_Part, None]]:
        """Opens nothing that is not open."""
        yield self._write

    def _write(self, item: _Part, advance: Advance) -> None:
        metadata = pa.concat_tables(self.fields.tables(item.kept.manifest))
        self.folder.write(
            item.number,
            image=self.vectors.block(item.place, "image"),
            text=self.vectors.block(item.place, "text"),
            metadata=metadata,
        )
        advance(len(metadata))
