"""The kept pairs as webdataset tars, for the next training run.

    00000.tar            members KEY.jpg|png|webp, KEY.txt, KEY.json of each pair
    00000_stats.json     img2dataset's counts; `images` counts the kinds of image
    sizes.json           {"00000.tar": 10000, ...}; open_clip reads it; written last
    README.md            a dataset card, by which Hugging Face `datasets` knows the columns

Equal pairs give equal bytes. A tar under its real name is whole.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from nccleaner.data.writing import sample_members, shard_stats, write_tar
from nccleaner.files import replace_file, write_json
from nccleaner.output.exports.card import dataset_card
from nccleaner.output.exports.formats import ExportFormat
from nccleaner.output.exports.kept import KeptPair, KeptPairs

SIZES = "sizes.json"
CARD = "README.md"


@dataclass(frozen=True, slots=True)
class TarFolder:
    """Writes tars; see `Portioned`.

    A pair's key is the number of its tar and of its row; `shard` and `key` in its JSON say where it
    came from.

    Attributes:
        out: The folder.
    """

    format: ClassVar[ExportFormat] = "webdataset"
    out: Path

    @property
    def portions(self) -> Path:
        """The folder itself."""
        return self.out

    def has(self, name: str) -> bool:
        """Whether a tar is there with its statistics."""
        return self._tar(name).exists() and self._stats(name).exists()

    def write(
        self, name: str, pairs: Iterable[KeptPair], *, digits: int, progress: Callable[[int], None]
    ) -> None:
        """Writes a tar and, before it gets its name, its statistics."""
        images: Counter[str] = Counter()

        def members() -> Iterator[tuple[str, bytes]]:
            for row, pair in enumerate(pairs):
                yield from sample_members(
                    f"{name}{row:0{digits}d}",
                    image=pair.image,
                    suffix=pair.suffix,
                    caption=pair.caption,
                    fields=pair.fields,
                )
                images[pair.suffix] += 1
                progress(1)

        with replace_file(self._tar(name)) as temporary:
            write_tar(temporary, members())
            stats = shard_stats(images.total()) | {"images": dict(sorted(images.items()))}
            write_json(stats, self._stats(name))

    def finish(self, names: Sequence[str], pairs: KeptPairs) -> None:
        """Writes the card and the sizes."""
        stats = {name: json.loads(self._stats(name).read_bytes()) for name in names}
        sizes = {self._tar(name).name: stats[name]["successes"] for name in names}
        assert sum(sizes.values()) == len(pairs), "a kept pair is lost"
        images = sorted({suffix for shard in stats.values() for suffix in shard["images"]})
        with replace_file(self.out / CARD) as temporary:
            card = dataset_card(pairs.fields.schema, images=images)
            temporary.write_text(card, encoding="utf-8")
        write_json(sizes, self.out / SIZES)

    def _tar(self, name: str) -> Path:
        return self.out / f"{name}.tar"

    def _stats(self, name: str) -> Path:
        return self.out / f"{name}_stats.json"
