"""The page itself: records in, one HTML file out that loads nothing.

Everything that strangers wrote (captions, keys, names of shards) is escaped by the template. A
content security policy allows the page's own style sheet and script, by their hashes, and images
that are in the page; whatever else might get in is not run and nothing is fetched.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup

from nccleaner.files import replace_file
from nccleaner.output.report.figures import (
    CurveChart,
    Distribution,
    draw_curves,
    draw_distribution,
    draw_shares,
    draw_trade_off,
)
from nccleaner.output.summary import Summary
from nccleaner.records import MISMATCHED

# What a page shows of a text: with so many pairs on it, this keeps it small whatever the captions.
_CAPTION_CHARS = 600
_NAME_CHARS = 120
# What may not fit in the lines that a caption gets until it is chosen.
_LONG_CAPTION_CHARS = 60
_FILES = files(__package__)
_RULES = {
    "threshold": "as was asked for",
    "keep_fraction": "which keeps the share that was asked for",
    "target_precision": "the lowest that keeps the precision asked for",
    "meta_prior": "those that are more likely matched than not",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPair:
    """A pair to look at.

    Attributes:
        shard: Its shard.
        key: Its key there.
        caption: Its caption.
        thumbnail: Its image as a `data:` URI; None where it could not be read again.
        similarity: In [-1, 1], higher = better matched.
        corrected_similarity: In [0, 1], higher = better matched.
        clean_probability: In [0, 1], higher = cleaner.
        kept: Whether the purge kept it.
        by_person: Whether somebody's label decided that, against its score.
    """

    shard: str
    key: str
    caption: str
    thumbnail: str | None
    similarity: float
    corrected_similarity: float
    clean_probability: float
    kept: bool
    by_person: bool


@dataclass(frozen=True, slots=True)
class Gallery:
    """Pairs to look at together.

    Attributes:
        title: What they have in common.
        rule: How they were chosen, as a sentence.
        pairs: The pairs; there may be none.
    """

    title: str
    rule: str
    pairs: Sequence[ShownPair]


@dataclass(frozen=True, slots=True)
class ShardOutcome:
    """What became of a shard's samples.

    Attributes:
        shard: Name of the shard.
        kept: Pairs kept.
        dropped: The others, counted by reason.
        problem: What is wrong with the shard as a whole; empty when nothing is.
    """

    shard: str
    kept: int
    dropped: Mapping[str, int]
    problem: str

    @property
    def samples(self) -> int:
        """Samples that it holds."""
        return self.kept + sum(self.dropped.values())

    @property
    def mismatched(self) -> int:
        """Pairs that were dropped for their scores."""
        return self.dropped.get(MISMATCHED, 0)

    @property
    def rejects(self) -> Mapping[str, int]:
        """Samples that are no pairs, counted by reason."""
        return {reason: n for reason, n in self.dropped.items() if reason != MISMATCHED}

    @property
    def explained(self) -> bool:
        """Whether there is anything to say of rejects and problems."""
        return bool(self.rejects or self.problem)

    @property
    def bar(self) -> Markup:
        """Kept, mismatched and rejected as parts of a bar; empty for a shard without samples."""
        rejected = sum(self.rejects.values())
        parts = {"matched": self.kept, "mismatched": self.mismatched, "rejected": rejected}
        return draw_shares(parts) if self.samples else Markup("")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that the page says.

    Attributes:
        name: Of the run.
        summary: Of the purge.
        distribution: All pairs by score.
        galleries: Pairs by what they show.
        sample: Pairs drawn at random, for the table.
        shards: Shards to list.
        shard_count: Shards that there are.
        pictured_shards: Shards that the pairs shown come from.
        training: How training went; empty where nothing tells.
        quality: What came of it: names and values.
    """

    name: str
    summary: Summary
    distribution: Distribution
    galleries: Sequence[Gallery]
    sample: Sequence[ShownPair]
    shards: Sequence[ShardOutcome]
    shard_count: int
    pictured_shards: int
    training: Sequence[CurveChart]
    quality: Mapping[str, str]

    @property
    def sources(self) -> list[tuple[float, str]]:
        """Level and source of the estimates, each once."""
        summary = self.summary
        estimates = (summary.mismatched_before, summary.mismatched_after, summary.recall)
        return list(dict.fromkeys((found.level, found.source) for found in estimates if found))


def write_report(report: Report, path: Path) -> None:
    """Writes the page, whole or not at all; the same report gives the same bytes."""
    text = render_report(report)
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def render_report(report: Report) -> str:
    """Returns the page as text."""
    from jinja2 import Environment, StrictUndefined

    style, script = _read("style.css"), _read("table.js")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        count=lambda number: f"{number:,}",
        percent=lambda share: f"{share:.1%}",
        at_least=lambda share: f"{math.floor(share * 1000) / 1000:.1%}",  # never above the bound
        words=lambda name: name.replace("_", " "),
        caption=lambda text: _cut(text, _CAPTION_CHARS),
        name=lambda text: _cut(text, _NAME_CHARS),
        draw=draw_curves,
    )
    return environment.from_string(_read("page.html")).render(
        report=report,
        summary=report.summary,
        rules=_RULES,
        long_caption=_LONG_CAPTION_CHARS,
        distribution_chart=draw_distribution(report.distribution),
        trade_off_chart=draw_trade_off(report.summary),
        style=style,
        script=script,
        policy=(
            "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
            f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
        ),
    )


def _read(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _cut(text: str, chars: int) -> str:
    # Half a surrogate pair is no text that a file can hold.
    whole = text.encode(errors="replace").decode()
    return whole if len(whole) <= chars else f"{whole[: chars - 1]}…"
