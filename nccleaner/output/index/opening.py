"""The FAISS indexes: nearest images and nearest texts among the kept pairs, by inner product.

In: a folder with `image.faiss` and `text.faiss` (row r of both is one pair), `ids.parquet` (which
pair that is) and `index.json` (what kind of index it is, and checksums that tell whether the four
belong together). Out: the rows nearest to a vector, and the pairs that they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nccleaner.errors import RunError, UsageError
from nccleaner.output.index.kinds import KINDS_WITH_LISTS, Kind
from nccleaner.output.index.library import effort_of, load_faiss, most_effort, set_effort
from nccleaner.output.index.recall import DEPTH

Modality = Literal["image", "text"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)

IDS_FILE = "ids.parquet"
ABOUT_FILE = "index.json"
IDS_SCHEMA = pa.schema([("row", pa.int64()), ("shard", pa.string()), ("key", pa.string())])

# A checksum reads at most this much of a file: at scale it is far larger than memory.
_BLOCKS = 64
_BLOCK_BYTES = 1 << 20


class PairIndex:
    """The indexes of a purge, open for search; made by `open_index`.

    Lists and ids are read where a search needs them: what is in memory does not grow with the
    number of pairs, but for the graph of kind `hnsw`.

    Attributes:
        dim: Numbers in an embedding.
        count: Pairs in the index.
        scorer: Identity of what the embeddings were made by.
    """

    def __init__(
        self, indexes: Mapping[Modality, Any], ids: pq.ParquetFile, *, kind: Kind, scorer: str
    ) -> None:
        self.dim: int = indexes["image"].d
        self.count: int = ids.metadata.num_rows
        self.scorer = scorer
        self._kind = kind
        self._indexes = indexes
        self._efforts = {name: effort_of(index, kind) for name, index in indexes.items()}
        self._ids = ids

    def search(
        self, modality: Modality, queries: npt.NDArray[np.float32], k: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Finds the k rows whose image or text has the largest inner product with each query.

        What an index that is not exact looks at grows with k, from what `recall_at_10` was measured
        with for ten, and further until k rows are found.

        Args:
            modality: What is searched, whatever the queries were made from.
            queries: Embeddings [q, dim].
            k: How many rows; fewer are found where the index has fewer.

        Returns:
            Rows [q, min(k, count)], the best first, and their inner products, which kind `ivf-pq`
            only estimates. A graph may find fewer: then the last rows are -1.

        Raises:
            UsageError: The queries have another width than the index, or k is below 1.
        """
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise UsageError(
                f"Queries must have the shape [n, {self.dim}], not {list(queries.shape)}.",
                "Embed them with the run that the index was made by.",
            )
        if k < 1:
            raise UsageError(f"Cannot search for {k} pairs.", "Ask for 1 or more.")
        k = min(k, self.count)
        if k == 0:
            return np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
        index, queries = self._indexes[modality], np.ascontiguousarray(queries, np.float32)
        effort, most = self._efforts[modality] * -(-k // DEPTH), most_effort(index, self._kind)
        while True:
            set_effort(index, self._kind, min(effort, most))
            products, rows = index.search(queries, k)
            if effort >= most or (rows >= 0).all():
                return rows, products
            effort *= 2

    def ids(self, rows: npt.NDArray[np.int64]) -> list[tuple[str, str]]:
        """Names the pairs of m rows: shard and key of each."""
        metadata = self._ids.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        ends = np.cumsum(sizes)
        groups = np.searchsorted(ends, rows, side="right")
        names: dict[int, tuple[str, str]] = {}
        for group in np.unique(groups):
            inside = rows[groups == group]
            table = self._ids.read_row_group(group, ["shard", "key"])
            found = table.take(pa.array(inside - (ends[group] - sizes[group])))
            pairs = zip(found["shard"].to_pylist(), found["key"].to_pylist(), strict=True)
            names.update(zip(inside.tolist(), pairs, strict=True))
        return [names[row] for row in rows.tolist()]


def open_index(folder: Path) -> PairIndex:
    """Opens the indexes in `folder`, if its files belong together.

    Raises:
        MissingDependencyError: FAISS is not installed.
        RunError: There is no index, or its files do not belong together.
    """
    faiss = load_faiss()
    about = _read_about(folder)
    for name, checksum in checksums(folder).items():
        if checksum != about["checksums"].get(name):
            raise _disagreement(folder, f"{name} is not the file that {ABOUT_FILE} tells of")
    # Lists stay in the file and, with a recent FAISS, the vectors of the other kinds too.
    has_lists = about["kind"] in KINDS_WITH_LISTS
    flag = faiss.IO_FLAG_MMAP if has_lists else getattr(faiss, "IO_FLAG_MMAP_IFC", 0)
    indexes = {
        modality: faiss.read_index(str(folder / index_file(modality)), flag)
        for modality in MODALITIES
    }
    ids = pq.ParquetFile(folder / IDS_FILE)
    named = ids.metadata.num_rows
    counts = {modality: index.ntotal for modality, index in indexes.items()}
    if set(counts.values()) | {named} != {about["count"]}:
        raise _disagreement(
            folder, f"{ABOUT_FILE} tells of {about['count']} pairs, ids of {named}, {counts}"
        )
    return PairIndex(indexes, ids, kind=about["kind"], scorer=about["scorer"])


def _read_about(folder: Path) -> dict[str, Any]:
    path = folder / ABOUT_FILE
    if not path.is_file():
        raise RunError(
            f"{folder} holds no index.",
            "Build it with `nccleaner index`; there must have been a `nccleaner purge`.",
        )
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {name: about[name] for name in ("kind", "count", "scorer", "checksums")}
    except (ValueError, LookupError, TypeError) as error:
        raise RunError(
            f"{path} is damaged or of another version: {type(error).__name__}: {error}.",
            "Build the index again with `nccleaner index`.",
        ) from error


def index_file(modality: Modality) -> str:
    """The name of an index in its folder."""
    return f"{modality}.faiss"


def checksums(folder: Path) -> dict[str, str]:
    """Hashes what belongs together, enough of each file to tell it from others."""
    names = [*(index_file(modality) for modality in MODALITIES), IDS_FILE]
    try:
        return {name: _checksum(folder / name) for name in names}
    except FileNotFoundError as error:
        raise _disagreement(folder, f"{Path(error.filename).name} is missing") from error


def _checksum(path: Path) -> str:
    """Hashes size and content; of a file above 64 MiB, 64 blocks evenly spread over it."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    count = min(_BLOCKS, -(-size // _BLOCK_BYTES))
    with path.open("rb") as file:
        for offset in np.linspace(0, max(size - _BLOCK_BYTES, 0), count, dtype=np.int64):
            file.seek(offset)
            digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()


def _disagreement(folder: Path, cause: str) -> RunError:
    return RunError(
        f"The files in {folder} do not belong together: {cause}.",
        "Build the index again with `nccleaner index`.",
    )
