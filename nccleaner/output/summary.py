"""The summary of a purge, one JSON file: what was kept, what was dropped and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from nccleaner.files import write_json


@dataclass(frozen=True, slots=True)
class CutOff:
    """The rule that divided the pairs: those with `column >= value` are kept.

    Attributes:
        column: The score that was compared, for example `corrected_similarity`.
        value: The cut-off, in that score's range.
        rule: What chose the value: `threshold`, `keep_fraction` or `meta_prior`.
    """

    column: str
    value: float
    rule: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimated share of pairs, with its interval.

    Attributes:
        value: The share, in [0, 1].
        low: Lower end of the interval.
        high: Upper end of the interval.
        level: Probability that the interval holds the true share, for example 0.95.
        source: What it was estimated from, for people.
    """

    value: float
    low: float
    high: float
    level: float
    source: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What a purge did.

    Attributes:
        samples: Samples that were read.
        kept: Pairs that were kept.
        dropped: Every other sample, counted by reason.
        cut_off: The rule that divided the pairs.
        mismatched_before: Estimated share of mismatched pairs among all pairs; None where there
            is nothing to estimate it from, here and below.
        mismatched_after: Estimated share of mismatched pairs among the kept.
        good_lost: Estimated share of the matched pairs that were dropped.
        shard_problems: What was wrong with a shard as a whole, by name of the shard.
        renamed_columns: Score columns that are called otherwise in some manifests, as the shards
            have columns of that name, and what they are called there.
        derived_uids: Samples that had no uid and were given one.
        versions: Versions of the packages that did it, by name.
    """

    samples: int
    kept: int
    dropped: Mapping[str, int]
    cut_off: CutOff
    mismatched_before: Estimate | None
    mismatched_after: Estimate | None
    good_lost: Estimate | None
    shard_problems: Mapping[str, str]
    renamed_columns: Mapping[str, str]
    derived_uids: int
    versions: Mapping[str, str]

    def __post_init__(self) -> None:
        assert self.kept + sum(self.dropped.values()) == self.samples, "a sample is lost"


def write_summary(summary: Summary, path: Path) -> None:
    """Writes the summary as JSON, its fields under their own names."""
    write_json(asdict(summary), path)
