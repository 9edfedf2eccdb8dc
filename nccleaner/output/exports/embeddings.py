"""The kept pairs as clip-retrieval's folder of embeddings, which autofaiss reads too.

    img_emb/img_emb_0.npy          float16 [pairs, d], rows of length 1
    text_emb/text_emb_0.npy        the captions of the same pairs, in the same order
    metadata/metadata_0.parquet    their manifest rows, in the same order; written last

One part for each shard with kept pairs: readers skip an empty `.npy`, but not its metadata, and
then nothing fits any more. Numbers have one width, as readers sort names as text.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nccleaner.files import replace_file, write_parquet

_FOLDERS = ("img_emb", "text_emb", "metadata")


@dataclass(frozen=True, slots=True)
class EmbeddingFolder:
    """Writes the parts of one folder.

    Attributes:
        out: The folder.
        parts: How many there will be.
    """

    out: Path
    parts: int

    @property
    def folders(self) -> tuple[Path, ...]:
        """Those in which files appear."""
        return tuple(self.out / name for name in _FOLDERS)

    def has(self, part: int) -> bool:
        """Whether a part is there, whole."""
        return self._path("metadata", part, "parquet").exists()

    def write(
        self,
        part: int,
        *,
        image: npt.NDArray[np.floating],
        text: npt.NDArray[np.floating],
        metadata: pa.Table,
    ) -> None:
        """Writes a part.

        Args:
            part: Its number, from 0.
            image: Embeddings [n, d].
            text: Embeddings [n, d].
            metadata: n rows.
        """
        assert len(image) == len(text) == len(metadata) > 0, "the three are of the same pairs"
        images, texts, rows = _FOLDERS
        for name, vectors in ((images, image), (texts, text)):
            with replace_file(self._path(name, part, "npy")) as temporary:
                np.save(temporary, _unit(vectors).astype(np.float16))
        write_parquet(metadata, self._path(rows, part, "parquet"))

    def _path(self, name: str, part: int, suffix: str) -> Path:
        width = len(str(self.parts - 1))
        return self.out / name / f"{name}_{part:0{width}d}.{suffix}"


def _unit(rows: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    unit: npt.NDArray[np.floating] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit
