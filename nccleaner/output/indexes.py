"""The FAISS indexes: nearest images and nearest texts among the kept pairs, by inner product.

In: embeddings, shard by shard, with the names of the pairs. Out: a folder with `image.faiss` and
`text.faiss` (row r of both is one pair), `ids.parquet` (which pair that is) and `index.json` (what
kind of index it is, and checksums that tell whether the four belong together). The folder appears
whole, in place of an earlier one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nccleaner.errors import MissingDependencyError, RunError, UsageError
from nccleaner.files import PARQUET_OPTIONS, replace_folder, write_json

Modality = Literal["image", "text"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)

_IDS_FILE = "ids.parquet"
_ABOUT_FILE = "index.json"
_IDS_SCHEMA = pa.schema([("row", pa.int64()), ("shard", pa.string()), ("key", pa.string())])

# The checksum of an index reads at most this much of it: at scale it is far larger than memory.
_BLOCKS = 64
_BLOCK_BYTES = 1 << 20


@contextmanager
def build_index(folder: Path, *, dim: int) -> Iterator[IndexBuilder]:
    """Builds flat (exact) indexes in memory and writes them when the block is left.

    After an error an earlier folder is as it was.

    Args:
        folder: The index folder; an earlier one is replaced as a whole.
        dim: Numbers in an embedding.

    Yields:
        What takes the pairs.

    Raises:
        MissingDependencyError: FAISS is not installed.
    """
    faiss = _faiss()
    with replace_folder(folder) as temporary:
        with pq.ParquetWriter(temporary / _IDS_FILE, _IDS_SCHEMA, **PARQUET_OPTIONS) as ids:
            indexes = {modality: faiss.IndexFlatIP(dim) for modality in MODALITIES}
            builder = IndexBuilder(indexes, ids)
            yield builder
        for modality, index in indexes.items():
            faiss.write_index(index, str(temporary / _index_file(modality)))
        about = {
            "kind": "flat",
            "metric": "inner_product",
            "dim": dim,
            "count": builder.count,
            "checksums": _checksums(temporary),
        }
        write_json(about, temporary / _ABOUT_FILE)


class IndexBuilder:
    """Takes the pairs of an index; made by `build_index`.

    Attributes:
        count: Pairs taken so far, and so the row of the next one.
    """

    def __init__(self, indexes: Mapping[Modality, Any], ids: pq.ParquetWriter) -> None:
        self.count = 0
        self._indexes = indexes
        self._ids = ids

    def add(
        self,
        *,
        shard: str,
        keys: Sequence[str],
        image: npt.NDArray[np.float32],
        text: npt.NDArray[np.float32],
    ) -> None:
        """Adds n pairs of one shard as the rows from `count` on.

        Args:
            shard: Name of the shard.
            keys: Keys of the pairs, n values.
            image: Embeddings of the images [n, dim], of unit length where an inner product is to
                be a cosine.
            text: Embeddings of the captions [n, dim].
        """
        vectors: Mapping[Modality, npt.NDArray[np.float32]] = {"image": image, "text": text}
        for modality, index in self._indexes.items():
            assert vectors[modality].shape == (len(keys), index.d), vectors[modality].shape
            assert np.isfinite(vectors[modality]).all(), f"{modality} vector not finite: {shard}"
            index.add(np.ascontiguousarray(vectors[modality], np.float32))
        end = self.count + len(keys)
        rows = pa.array(range(self.count, end), pa.int64())
        columns = [rows, pa.repeat(shard, len(keys)), pa.array(keys, pa.string())]
        self._ids.write_table(pa.table(columns, schema=_IDS_SCHEMA))
        self.count = end


class PairIndex:
    """The indexes of a purge, open for search; made by `open_index`.

    Attributes:
        dim: Numbers in an embedding.
        count: Pairs in the index.
    """

    def __init__(self, indexes: Mapping[Modality, Any], ids: pa.Table) -> None:
        self.dim: int = indexes["image"].d
        self.count: int = ids.num_rows
        self._indexes = indexes
        self._ids = ids

    def search(
        self, modality: Modality, queries: npt.NDArray[np.float32], k: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Finds the k rows whose image or text has the largest inner product with each query.

        Args:
            modality: What is searched, whatever the queries were made from.
            queries: Embeddings [q, dim].
            k: How many rows; fewer are found where the index has fewer.

        Returns:
            Rows [q, min(k, count)], the best first, and their inner products.

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
        products, rows = self._indexes[modality].search(
            np.ascontiguousarray(queries, np.float32), k
        )
        return rows, products

    def ids(self, rows: npt.NDArray[np.int64]) -> list[tuple[str, str]]:
        """Names the pairs of m rows: shard and key of each."""
        found = self._ids.take(pa.array(rows, pa.int64()))
        return list(zip(found["shard"].to_pylist(), found["key"].to_pylist(), strict=True))


def open_index(folder: Path) -> PairIndex:
    """Opens the indexes in `folder`, if its files belong together.

    Raises:
        MissingDependencyError: FAISS is not installed.
        RunError: There is no index, or its files do not belong together.
    """
    faiss = _faiss()
    if not (folder / _ABOUT_FILE).is_file():
        raise RunError(f"{folder} holds no index.", "Run `nccleaner purge` first.")
    about = json.loads((folder / _ABOUT_FILE).read_text(encoding="utf-8"))
    for name, checksum in _checksums(folder).items():
        if checksum != about["checksums"][name]:
            raise _disagreement(folder, f"{name} is not the file that {_ABOUT_FILE} tells of")
    indexes = {
        modality: faiss.read_index(str(folder / _index_file(modality))) for modality in MODALITIES
    }
    ids = pq.read_table(folder / _IDS_FILE)
    counts = {modality: index.ntotal for modality, index in indexes.items()}
    if set(counts.values()) | {ids.num_rows} != {about["count"]}:
        raise _disagreement(
            folder,
            f"{_ABOUT_FILE} tells of {about['count']} pairs, ids of {ids.num_rows}, {counts}",
        )
    return PairIndex(indexes, ids)


def _index_file(modality: Modality) -> str:
    return f"{modality}.faiss"


def _checksums(folder: Path) -> dict[str, str]:
    """Hashes what belongs together: all of the ids, enough of an index to tell it from others."""
    files = {_index_file(modality): _sample_checksum for modality in MODALITIES}
    files[_IDS_FILE] = _checksum
    try:
        return {name: checksum(folder / name) for name, checksum in files.items()}
    except FileNotFoundError as error:
        raise _disagreement(folder, f"{Path(error.filename).name} is missing") from error


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sample_checksum(path: Path) -> str:
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


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingDependencyError(
            f"The indexes need FAISS, which cannot be imported: {error}.",
            "pip install 'nccleaner[cpu]'",
        ) from error
    return faiss
