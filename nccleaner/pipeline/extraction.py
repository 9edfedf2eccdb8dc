"""Shards to parts of the feature cache: what is there is used, the rest is extracted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nccleaner.config import DataConfig
from nccleaner.data.features import FeaturePart, extract_part, part_fingerprint, read_part
from nccleaner.data.locations import check_unchanged
from nccleaner.errors import ShardError
from nccleaner.files import remove_leftovers
from nccleaner.pipeline.backbones import Backbones, limits_of
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
    """

    root: Path
    backbones: Backbones
    data: DataConfig
    image_encoder: str
    text_encoder: str | None
    targets: bool = False

    def parts(self, shards: Sequence[Shard], reporter: Reporter) -> list[FeaturePart]:
        """Returns the parts of all shards, extracting those that are missing.

        Raises:
            ShardError: The storage failed, a shard changed since it was found, or `on_bad_shard` is
                `fail` and one is damaged.
            RunError: Something must be extracted and the encoders have changed.
        """
        parts = {shard.name: self._find(shard) for shard in shards}
        missing = [shard for shard in shards if parts[shard.name] is None]
        if missing:
            parts |= self._extract(missing, reporter)
        found = [part for part in parts.values() if part is not None]
        for part in found:
            self._check(part.report)
        return found

    def _find(self, shard: Shard) -> FeaturePart | None:
        return read_part(
            self.root / shard.name, self._fingerprint(shard), with_targets=self.targets
        )

    def _fingerprint(self, shard: Shard) -> str:
        return part_fingerprint(shard, self.image_encoder, self.text_encoder, limits_of(self.data))

    def _extract(self, shards: Sequence[Shard], reporter: Reporter) -> dict[str, FeaturePart]:
        from nccleaner.data.decoding import DecodePool

        self.backbones.check(self.image_encoder, self.text_encoder)
        if self.root.exists():
            remove_leftovers(self.root)
        workers = self.data.workers if self.data.workers >= 0 else os.cpu_count() or 1
        parts = {}
        title = f"Extracting features from {shard_count(shards)}"
        with (
            DecodePool(workers=workers) as pool,
            reporter.stage(title, None, "samples") as advance,
        ):
            for shard in shards:
                check_unchanged(shard)
                parts[shard.name] = extract_part(
                    shard,
                    root=self.root,
                    fingerprint=self._fingerprint(shard),
                    image_encoder=self.backbones.image,
                    text_encoder=self.backbones.text,
                    pool=pool,
                    limits=limits_of(self.data),
                    batch_size=self.backbones.config.batch_size,
                    on_samples=advance,
                    with_targets=self.targets,
                )
        return parts

    def _check(self, report: ShardReport) -> None:
        if report.problem and self.data.on_bad_shard == "fail":
            raise ShardError(
                f"Shard {report.shard}: {report.problem}",
                "Mend or remove it, or use its good samples with --on-bad-shard use.",
            )


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
