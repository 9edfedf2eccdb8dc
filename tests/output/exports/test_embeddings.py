from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embedding_reader import EmbeddingReader

from nccleaner.output.exports.embeddings import EmbeddingFolder

SIZES = [3, 1, 4, 2, 5, 1, 2, 3, 1, 4, 2]  # more than ten, so that numbers get two digits


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(2, sum(SIZES), 8)).astype(np.float32) * 3
    return image, text


@pytest.fixture(scope="module")
def folder(rows: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("embeddings")
    writer = EmbeddingFolder(out, len(SIZES))
    ends = np.cumsum(SIZES)
    for part, end in enumerate(ends):
        mine = slice(end - SIZES[part], end)
        keys = pa.table({"key": [str(row) for row in range(mine.start, mine.stop)]})
        assert not writer.has(part)
        writer.write(part, image=rows[0][mine], text=rows[1][mine], metadata=keys)
        assert writer.has(part)
    return out


@pytest.mark.parametrize(("name", "number"), [("img_emb", 0), ("text_emb", 1)])
def test_the_reader_of_clip_retrieval_reads_rows_with_their_metadata(
    folder: Path, rows: tuple[np.ndarray, np.ndarray], name: str, number: int
) -> None:
    reader = EmbeddingReader(
        embeddings_folder=str(folder / name),
        metadata_folder=str(folder / "metadata"),
        meta_columns=["key"],
        file_format="parquet_npy",
    )
    assert (reader.count, reader.dimension) == (sum(SIZES), 8)
    batches = list(reader(batch_size=5, show_progress=False))
    found = np.concatenate([embeddings for embeddings, _ in batches])
    keys = [key for _, metadata in batches for key in metadata["key"]]
    assert keys == [str(row) for row in range(sum(SIZES))]
    unit = rows[number] / np.linalg.norm(rows[number], axis=1, keepdims=True)
    np.testing.assert_allclose(found, unit, atol=1e-3)


def test_faiss_finds_each_row_by_itself(folder: Path) -> None:
    parts = [np.load(path) for path in sorted((folder / "img_emb").iterdir())]
    assert {part.dtype for part in parts} == {np.dtype(np.float16)}
    vectors = np.concatenate(parts).astype(np.float32)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    products, nearest = index.search(vectors, 1)
    assert nearest[:, 0].tolist() == list(range(len(vectors)))
    np.testing.assert_allclose(products, 1, atol=2e-3)


def test_names_sort_as_numbers_do(folder: Path) -> None:
    names = sorted(path.name for path in (folder / "metadata").iterdir())
    assert names == [f"metadata_{number:02d}.parquet" for number in range(len(SIZES))]
    assert [pq.read_metadata(folder / "metadata" / name).num_rows for name in names] == SIZES
