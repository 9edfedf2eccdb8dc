"""The kept pairs as webdataset tars, for the next training run.

    00000.tar            members KEY.jpg|png|webp, KEY.txt, KEY.json of each pair
    00000_stats.json     img2dataset's counts; `images` counts the kinds of image
    sizes.json           {"00000.tar": 10000, ...}; open_clip reads it; written last
    README.md            a dataset card, by which Hugging Face `datasets` knows the columns

Equal pairs give equal bytes. A tar under its real name is whole, and so are those before it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from nccleaner.data.writing import sample_members, shard_stats, write_tar
from nccleaner.files import replace_file, write_json
from nccleaner.output.exports.card import dataset_card
from nccleaner.output.exports.formats import count_done, portion_names
from nccleaner.output.exports.kept import KeptPair, KeptPairs

SIZES = "sizes.json"
CARD = "README.md"


def write_webdataset(
    pairs: KeptPairs, out: Path, *, samples_per_shard: int, progress: Callable[[int], None]
) -> int:
    """Writes all pairs as tars; after an interruption it goes on after the last whole one.

    The image bytes are copied as they are. A pair's key is the number of its tar and of its row;
    `shard` and `key` in its JSON say where it came from.

    Args:
        pairs: What to write.
        out: The folder.
        samples_per_shard: Pairs in each tar but the last.
        progress: Called with the number of pairs that are done since the last call.

    Returns:
        The number of tars.

    Raises:
        ShardError: A shard has changed since it was purged, or its storage failed.
    """
    names = portion_names(len(pairs), samples_per_shard)
    done = count_done(
        (out / f"{name}.tar").exists() and (out / f"{name}_stats.json").exists() for name in names
    )
    progress(min(done * samples_per_shard, len(pairs)))
    stream = pairs.read(done * samples_per_shard)
    for name in names[done:]:
        _write_shard(out, name, islice(stream, samples_per_shard), samples_per_shard, progress)

    stats = {name: json.loads((out / f"{name}_stats.json").read_bytes()) for name in names}
    sizes = {f"{name}.tar": stats[name]["successes"] for name in names}
    assert sum(sizes.values()) == len(pairs), "a kept pair is lost"
    images = sorted({suffix for shard in stats.values() for suffix in shard["images"]})
    with replace_file(out / CARD) as temporary:
        temporary.write_text(dataset_card(pairs.fields.schema, images=images), encoding="utf-8")
    write_json(sizes, out / SIZES)
    return len(names)


def _write_shard(
    out: Path,
    name: str,
    pairs: Iterable[KeptPair],
    samples_per_shard: int,
    progress: Callable[[int], None],
) -> None:
    """Writes one tar and, before it gets its name, its statistics."""
    digits = len(str(samples_per_shard - 1))
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

    with replace_file(out / f"{name}.tar") as temporary:
        write_tar(temporary, members())
        stats = shard_stats(images.total()) | {"images": dict(sorted(images.items()))}
        write_json(stats, out / f"{name}_stats.json")
