"""The summary of a purge, one JSON file: what was kept, what was dropped and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from nccleaner.errors import RunError
from nccleaner.files import write_json

# Written last by `purge`: without it, what else is in the folder is not whole.
SUMMARY_NAME = "summary.json"


@dataclass(frozen=True, slots=True)
class CutOff:
    """The rule that divided the pairs: those with `column >= value` are kept.

    Attributes:
        column: The score that was compared, for example `corrected_similarity`.
        value: The cut-off, in that score's range.
        rule: What chose the value: `threshold`, `keep_fraction`, `target_precision` or
            `meta_prior`.
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
class Share:
    """An estimated share of pairs in [0, 1], with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Choice:
    """What another cut-off on the same score would do.

    Attributes:
        value: The cut-off.
        kept: Pairs that it would keep; counted.
        mismatched: Share of mismatched pairs among them; None where that is not known.
        recall: Share of the matched pairs that it would keep, likewise.
    """

    value: float
    kept: int
    mismatched: Share | None
    recall: Share | None


@dataclass(frozen=True, slots=True)
class Promise:
    """What the cut-off of a target precision keeps to.

    Attributes:
        target: Share of the kept pairs that should be matched, as it was asked for.
        bound: Share that is matched at least of the kept pairs that nobody labelled; not below
            `target`. Labelled pairs are kept only if they are matched.
        level: Probability with which that holds.
    """

    target: float
    bound: float
    level: float


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
        precision: Estimated share of matched pairs among the kept.
        recall: Estimated share of the matched pairs that were kept.
        evidence: What the estimates rest on: the trusted pairs of the fit, or labels of a random
            sample of the shards.
        promise: What holds for the cut-off, where a precision was asked for.
        cut_offs: What others would do, from the most generous to the strictest.
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
    precision: Estimate | None
    recall: Estimate | None
    evidence: Literal["trusted_pairs", "random_sample"]
    promise: Promise | None
    cut_offs: Sequence[Choice]
    shard_problems: Mapping[str, str]
    renamed_columns: Mapping[str, str]
    derived_uids: int
    versions: Mapping[str, str]

    def __post_init__(self) -> None:
        assert self.kept + sum(self.dropped.values()) == self.samples, "a sample is lost"


def write_summary(summary: Summary, path: Path) -> None:
    """Writes the summary as JSON, its fields under their own names."""
    write_json(asdict(summary), path)


def read_summary(path: Path) -> Summary:
    """Reads a summary.

    Raises:
        RunError: There is none, so that no purge was finished here, or it is damaged or of another
            version.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Summary).validate_json(path.read_bytes())
    except OSError as error:
        raise RunError(
            f"{path.parent} holds no finished purge.", "Run `nccleaner purge` first."
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise RunError(
            f"{path} is damaged or of another version: {where}: {first['msg']}.",
            "Run `nccleaner purge` again.",
        ) from error
