"""Shards to parts of the feature cache: what is there is used, the rest is extracted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from nccleaner.config import DataConfig
from nccleaner.data.features import FeaturePart, part_fingerprint, read_part
from nccleaner.data.locations import check_unchanged
from nccleaner.errors import ShardError
from nccleaner.pipeline.backbones import Backbones, decoders_of, limits_of
from nccleaner.pipeline.engines import Advance, Engine, LocalEngine, Work
from nccleaner.pipeline.reporter import Reporter, shard_count
from nccleaner.pipeline.results import Reading
from nccleaner.records import Shard, ShardReport


@dataclass
class FeatureStore:
    """The feature cache of one data set.

    Attributes:
        root: Its folder.
        backbones: The encoders.
        data: What a sample may cost.
        image_encoder: Fingerprint of the image encoder that every part must be made with.
        text_encoder: Fingerprint of the text encoder; None where captions come as tokens.
        targets: Whether parts must hold what image reconstruction aims at.
        engine: Extracts what is missing.
    """

    root: Path
    backbones: Backbones
    data: DataConfig
    image_encoder: str
    text_encoder: str | None
    targets: bool = False
    engine: Engine = field(default_factory=LocalEngine)

    def parts(self, shards: Sequence[Shard], reporter: Reporter) -> list[FeaturePart]:
        """Returns the parts of all shards, extracting those that are missing.

        Raises:
            ShardError: The storage failed, a shard changed since it was found, or `on_bad_shard` is
                `fail` and one is damaged.
            RunError: Something must be extracted and the encoders have changed.
        """
        parts = [self.find(shard) for shard in shards]
        missing = [place for place, part in enumerate(parts) if part is None]
        extracted = self._extract([shards[place] for place in missing], reporter)
        for place, part in zip(missing, extracted, strict=True):
            parts[place] = part
        found = [part for part in parts if part is not None]
        for part in found:
            self._check(part.report)
        return found

    def find(self, shard: Shard) -> FeaturePart | None:
        """Opens the part of a shard; None if it is not there, or made from something else."""
        return read_part(self.root / shard.name, self.fingerprint(shard), with_targets=self.targets)

    def fingerprint(self, shard: Shard) -> str:
        """Digests all that the part of a shard depends on."""
        return part_fingerprint(shard, self.image_encoder, self.text_encoder, limits_of(self.data))

    def _extract(self, shards: Sequence[Shard], reporter: Reporter) -> list[FeaturePart]:
        if not shards:
            return []
        job = _Extraction(replace(self, root=self.root.absolute()))
        title = f"Extracting features from {shard_count(shards)}"
        with reporter.stage(title, None, "samples") as advance:
            return list(self.engine.run(job, shards, advance))

    def _check(self, report: ShardReport) -> None:
        if report.problem and self.data.on_bad_shard == "fail":
            raise ShardError(
                f"Shard {report.shard}: {report.problem}",
                "Mend or remove it, or use its good samples with --on-bad-shard use.",
            )


@dataclass(frozen=True, slots=True)
class _Extraction:
    """Extracts the features of a shard.

    Attributes:
        store: Where they go. Elsewhere its encoders are loaded anew, and must be the same.
    """

    store: FeatureStore

    @property
    def folders(self) -> tuple[Path, ...]:
        """The feature cache."""
        return (self.store.root,)

    @property
    def device(self) -> str:
        """Of the encoders."""
        return self.store.backbones.config.device

    @property
    def in_threads(self) -> bool:
        """One set of networks serves all."""
        return False

    def name(self, item: Shard) -> str:
        """Names a shard."""
        return f"shard {item.name}"

    @contextmanager
    def open(self) -> Iterator[Work[Shard, FeaturePart]]:
        """Loads the encoders and starts the decoders."""
        from nccleaner.data.decoding import DecodePool
        from nccleaner.data.extracting import extract_part

        store = self.store
        backbones, limits = store.backbones, limits_of(store.data)
        backbones.check(store.image_encoder, store.text_encoder)
        with DecodePool(workers=decoders_of(store.data)) as pool:

            def extract(shard: Shard, advance: Advance) -> FeaturePart:
                check_unchanged(shard)
                return extract_part(
                    shard,
                    root=store.root,
                    fingerprint=store.fingerprint(shard),
                    image_encoder=backbones.image,
                    text_encoder=backbones.text,
                    pool=pool,
                    limits=limits,
                    batch_size=backbones.config.batch_size,
                    on_samples=advance,
                    with_targets=store.targets,
                )

            yield extract


def summarise(parts: Sequence[FeaturePart]) -> Reading:
    """Adds up what reading the shards found."""
    reports = [part.report for part in parts]
    rejects: Counter[str] = Counter()
    for report in reports:
        rejects.update(report.rejects)
    return Reading(
        shards=len(reports),
        samples=sum(report.samples for report in reports),
        pairs=sum(report.pairs for report in reports),
        rejects=dict(rejects.most_common()),
        problems={report.shard: report.problem for report in reports if report.problem},
    )
