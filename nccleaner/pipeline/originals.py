"""Chosen samples from the shards themselves: for their images, which nothing else keeps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from nccleaner.config import DataConfig
from nccleaner.data.reading import ShardReading
from nccleaner.output.thumbnails import make_thumbnails
from nccleaner.pipeline.backbones import decoders_of, limits_of
from nccleaner.pipeline.reporter import Reporter, shard_count
from nccleaner.records import DUPLICATE_KEY, Limits, Sample, Shard

Name = tuple[str, str]


def read_originals(
    shards: Sequence[Shard], names: Iterable[Name], *, limits: Limits
) -> Iterator[Sample]:
    """Reads chosen samples, in the order of the shards; one sample is in memory at a time.

    Each shard that holds some is read once and no further than needed.

    Args:
        shards: Where to look.
        names: Shard and key of each sample; where a key repeats the first sample is meant.
        limits: What a sample may cost.

    Raises:
        ShardError: The storage failed.
    """
    wanted: defaultdict[str, set[str]] = defaultdict(set)
    for shard_name, key in names:
        wanted[shard_name].add(key)
    for shard in shards:
        yield from _read_from(shard, wanted[shard.name], limits)


def _read_from(shard: Shard, keys: set[str], limits: Limits) -> Iterator[Sample]:
    if not keys:
        return
    missing = set(keys)
    for sample in ShardReading(shard, limits=limits):
        if sample.key in missing and sample.status != DUPLICATE_KEY:
            missing.remove(sample.key)
            yield sample
            if not missing:
                return


class Picture(NamedTuple):
    """What a page shows of a sample.

    Attributes:
        caption: Its caption; empty where it has none.
        thumbnail: Its image as a `data:` URI; None where it has none, or none that decodes.
    """

    caption: str
    thumbnail: str | None


def read_pictures(
    shards: Sequence[Shard],
    names: Iterable[Name],
    *,
    size_px: int,
    data: DataConfig,
    reporter: Reporter,
) -> dict[Name, Picture]:
    """Reads captions of chosen samples, and makes thumbnails of their images.

    Args:
        shards: Where to look.
        names: Shard and key of each sample.
        size_px: Longer side of a thumbnail, at most.
        data: What a sample may cost, and how many are decoded at once.
        reporter: Hears of progress.

    Returns:
        What was found, by shard and key.

    Raises:
        ShardError: The storage failed.
    """
    limits = limits_of(data)
    workers = decoders_of(data)
    wanted = set(names)
    holders = {name for name, _ in wanted}
    needed = [shard for shard in shards if shard.name in holders]
    captions: dict[Name, str] = {}

    def images() -> Iterator[tuple[Name, bytes | None]]:
        for sample in read_originals(needed, wanted, limits=limits):
            captions[sample.shard, sample.key] = sample.caption or ""
            yield (sample.shard, sample.key), sample.image

    found = {}
    title = f"Reading images from {shard_count(needed)}"
    with reporter.stage(title, len(wanted), "images") as advance:
        for name, uri in make_thumbnails(images(), size_px=size_px, limits=limits, workers=workers):
            found[name] = Picture(captions[name], uri)
            advance(1)
    return found
