"""The kept pairs in the joint space, as clip-retrieval's folder of embeddings."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from nccleaner.output.exports.embeddings import EmbeddingFolder
from nccleaner.output.exports.kept import KeptPairs
from nccleaner.pipeline.reporter import Reporter
from nccleaner.pipeline.score import Scoring
from nccleaner.pipeline.vectors import KeptVectors


def write_embeddings(scoring: Scoring, pairs: KeptPairs, out: Path, reporter: Reporter) -> int:
    """Writes a part for each shard with kept pairs; parts that are there already stay.

    Args:
        scoring: The run that was purged.
        pairs: What it kept.
        out: The folder.
        reporter: Hears of progress.

    Returns:
        The number of parts.

    Raises:
        RunError: The features are not those of what was purged.
    """
    filled = [kept for kept in pairs.shards if kept.count]
    folder = EmbeddingFolder(out, parts=len(filled))
    todo = [number for number in range(len(filled)) if not folder.has(number)]
    shards = [filled[number].shard for number in todo]
    vectors = KeptVectors(scoring, shards, scoring.store.parts(shards, reporter))
    with reporter.stage("Writing clip-retrieval", len(pairs), "pairs") as advance:
        advance(len(pairs) - vectors.count)
        blocks = zip(todo, vectors.blocks("image"), vectors.blocks("text"), strict=True)
        for number, image, text in blocks:
            metadata = pa.concat_tables(pairs.fields.tables(filled[number].manifest))
            folder.write(number, image=image, text=text, metadata=metadata)
            advance(len(metadata))
    return len(filled)
