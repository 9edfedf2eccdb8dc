"""The kept pairs as a table for open_clip's CSV reader, with the images as files beside it.

    pairs.tsv              filepath, title; separated by tabs, as open_clip expects; written last
    images/00000/          KEY.jpg|png|webp, and `pairs.tsv` with the rows of this folder

A folder under its real name is whole.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from nccleaner.files import replace_file, replace_folder
from nccleaner.output.exports.formats import ExportFormat
from nccleaner.output.exports.kept import KeptPair, KeptPairs

TABLE = "pairs.tsv"

# What pandas, by which open_clip reads the table, takes for a missing value, in quotes or not.
_MISSING = frozenset(
    [
        *("#N/A", "#N/A N/A", "#NA", "<NA>", "N/A", "NA", "n/a"),
        *("-NaN", "-nan", "NaN", "nan", "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN"),
        *("NULL", "None", "null"),
    ]
)


@dataclass(frozen=True, slots=True)
class ImageFolders:
    """Writes folders of images and the table of them; see `Portioned`.

    `filepath` is absolute: open_clip would look for others in the folder that it is started in.

    Attributes:
        out: The folder, without links.
    """

    format: ClassVar[ExportFormat] = "csv"
    out: Path

    @property
    def portions(self) -> Path:
        """`images`."""
        return self.out / "images"

    def has(self, name: str) -> bool:
        """Whether a folder of images is there."""
        return (self.portions / name).exists()

    def write(
        self, name: str, pairs: Iterable[KeptPair], *, digits: int, progress: Callable[[int], None]
    ) -> None:
        """Writes a folder of images with its table."""
        folder = self.portions / name
        with (
            replace_folder(folder) as temporary,
            (temporary / TABLE).open("w", encoding="utf-8", newline="") as file,
        ):
            # All in quotes: else a caption with a carriage return would end the row.
            writer = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_ALL)
            writer.writerow(["filepath", "title"])
            for row, pair in enumerate(pairs):
                image = f"{name}{row:0{digits}d}.{pair.suffix}"
                (temporary / image).write_bytes(pair.image)
                writer.writerow([str(folder / image), _for_pandas(pair.caption)])
                progress(1)

    def finish(self, names: Sequence[str], pairs: KeptPairs) -> None:  # noqa: ARG002
        """Writes the table of all folders."""
        with replace_file(self.out / TABLE) as temporary, temporary.open("wb") as table:
            for number, name in enumerate(names):
                with (self.portions / name / TABLE).open("rb") as part:
                    header = part.readline()
                    table.write(b"" if number else header)
                    shutil.copyfileobj(part, table)


def _for_pandas(caption: str) -> str:
    """A caption that pandas returns as it is, with the same words.

    It ends a text at a NUL, and takes `None` and the like for nothing at all.
    """
    caption = caption.replace("\0", " ")
    return f"{caption} " if caption in _MISSING else caption
