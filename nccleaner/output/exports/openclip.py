"""The kept pairs as a table for open_clip's CSV reader, with the images as files beside it.

    pairs.tsv              filepath, title; separated by tabs, as open_clip expects; written last
    images/00000/          KEY.jpg|png|webp, and `pairs.tsv` with the rows of this folder

A folder under its real name is whole, and so are those before it.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

from nccleaner.files import remove_leftovers, replace_file, replace_folder
from nccleaner.output.exports.formats import count_done, portion_names
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


def write_table_and_images(
    pairs: KeptPairs, out: Path, *, samples_per_shard: int, progress: Callable[[int], None]
) -> int:
    """Writes all pairs; after an interruption it goes on after the last whole folder.

    The image bytes are copied as they are. `filepath` is absolute: open_clip would look for others
    in the folder that it is started in.

    Args:
        pairs: What to write.
        out: The folder.
        samples_per_shard: Pairs in each folder of images but the last.
        progress: Called with the number of pairs that are done since the last call.

    Returns:
        The number of folders of images.

    Raises:
        ShardError: A shard has changed since it was purged, or its storage failed.
    """
    images = out.resolve() / "images"
    remove_leftovers(images)
    folders = [images / name for name in portion_names(len(pairs), samples_per_shard)]
    done = count_done(folder.exists() for folder in folders)
    progress(min(done * samples_per_shard, len(pairs)))
    stream = pairs.read(done * samples_per_shard)
    for folder in folders[done:]:
        _write_folder(folder, islice(stream, samples_per_shard), samples_per_shard, progress)
    with replace_file(out / TABLE) as temporary, temporary.open("wb") as table:
        for number, folder in enumerate(folders):
            with (folder / TABLE).open("rb") as part:
                header = part.readline()
                table.write(b"" if number else header)
                shutil.copyfileobj(part, table)
    return len(folders)


def _write_folder(
    folder: Path,
    pairs: Iterable[KeptPair],
    samples_per_shard: int,
    progress: Callable[[int], None],
) -> None:
    digits = len(str(samples_per_shard - 1))
    with (
        replace_folder(folder) as temporary,
        (temporary / TABLE).open("w", encoding="utf-8", newline="") as file,
    ):
        # All in quotes: else a caption with a carriage return would end the row.
        writer = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow(["filepath", "title"])
        for row, pair in enumerate(pairs):
            name = f"{folder.name}{row:0{digits}d}.{pair.suffix}"
            (temporary / name).write_bytes(pair.image)
            writer.writerow([str(folder / name), _for_pandas(pair.caption)])
            progress(1)


def _for_pandas(caption: str) -> str:
    """A caption that pandas returns as it is, with the same words.

    It ends a text at a NUL, and takes `None` and the like for nothing at all.
    """
    caption = caption.replace("\0", " ")
    return f"{caption} " if caption in _MISSING else caption
