"""Reports for the tests of the page, without a run: pairs whose captions mean harm among them."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
from PIL import Image

from nccleaner.output.report.figures import Curve, CurveChart, Distribution
from nccleaner.output.report.page import Gallery, Report, ShardOutcome, ShownPair
from nccleaner.output.summary import Choice, CutOff, Estimate, Share, Summary

HOSTILE = (
    "<script>window.harmed = 1</script>",
    '"><img src=x onerror="window.harmed = 2">',
    "' onfocus='window.harmed = 3' autofocus='",
    "</title></style></script><script>window.harmed = 4</script>",
    "<!-- --!><svg onload=alert(5)>",
    "{{ 7 * 7 }} {% raw %} ${window.harmed = 6}",
    '<link rel=stylesheet href="https://example.org/a.css"><base href="https://example.org/">',
    '<iframe src="https://example.org"></iframe><form action="https://example.org">',
    "javascript:alert(8)",
    "صورة قطة حمراء <b>جالسة</b>",
    "a lone surrogate \ud800 and a null \0 and a bell \x07",
    "long " * 3000,
)


def thumbnail(color: tuple[int, int, int] = (200, 30, 30)) -> str:
    return data_uri(np.full((24, 32, 3), color, dtype=np.uint8))


def data_uri(pixels: np.ndarray) -> str:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def make_pairs(count: int) -> list[ShownPair]:
    """Pairs with hostile captions first; their scores are in no order, and none twice."""
    rng = np.random.default_rng(0)
    scores, cosines = rng.permutation(count) / count, rng.permutation(count) / count
    captions = [*HOSTILE, *(f"caption number {number}" for number in range(count))]
    return [
        ShownPair(
            shard=f"{place % 3:05d}",
            key=f"{place:09d}",
            caption=captions[place],
            thumbnail=None if place % 7 == 0 else thumbnail(),
            similarity=float(2 * cosines[place] - 1),
            corrected_similarity=float(score),
            clean_probability=float(score**2),
            kept=bool(score >= 0.5),
            by_person=place == 3,
        )
        for place, score in enumerate(scores)
    ]


def make_summary() -> Summary:
    return Summary(
        samples=1000,
        kept=600,
        dropped={"mismatched": 380, "undecodable_image": 15, "empty_caption": 5},
        cut_off=CutOff("corrected_similarity", 0.5, "threshold"),
        mismatched_before=_estimate(0.4),
        mismatched_after=_estimate(0.06),
        good_lost=_estimate(0.1),
        precision=_estimate(0.94),
        recall=_estimate(0.9),
        evidence="trusted_pairs",
        promise=None,
        cut_offs=[
            Choice(0.1 * n, 1000 - 90 * n, Share(0.4 / n, 0.3 / n, 0.5 / n), _share(1.02 - n / 20))
            for n in range(1, 11)
        ],
        shard_problems={"00001": "the archive is cut <b>here</b>"},
        renamed_columns={},
        derived_uids=0,
        versions={"nccleaner": "0.1.0"},
    )


def make_report(count: int = 40) -> Report:
    pairs = make_pairs(count)
    edges = np.linspace(0, 1, 11)
    return Report(
        name="run <of> 'someone' & \"co\"",
        summary=make_summary(),
        distribution=Distribution(
            score="corrected_similarity",
            edges=edges,
            matched=np.arange(10.0),
            mismatched=np.arange(10.0)[::-1],
            labelled_matched=np.arange(10.0) + 1,
            labelled_mismatched=np.arange(10.0)[::-1] + 1,
            cut_off=0.5,
        ),
        galleries=[
            Gallery("Surely mismatched", "Drawn.", pairs[:12]),
            Gallery("None", "There are none of these.", []),
            Gallery("Random sample", "Drawn.", pairs[:6]),
        ],
        sample=pairs,
        shards=[
            ShardOutcome("00000", 300, {"mismatched": 190}, ""),
            ShardOutcome(
                "00001", 300, {"mismatched": 190, "undecodable_image": 15}, "cut <b>here</b>"
            ),
            ShardOutcome("<i>3", 0, {}, "it holds no samples"),
        ],
        shard_count=3,
        pictured_shards=3,
        training=[
            CurveChart(
                title="Losses",
                axis="loss",
                epochs=[1, 2, 3],
                best=2,
                curves=[Curve("main network", "matched", [3.0, 2.0, 1.5])],
            )
        ],
        quality={"Epochs": "3"},
    )


def with_pictures(report: Report, uri: str, caption: str) -> Report:
    """The same with one image and one caption for all pairs."""

    def same(pair: ShownPair) -> ShownPair:
        return replace(pair, thumbnail=uri, caption=caption)

    galleries = [replace(of, pairs=[same(pair) for pair in of.pairs]) for of in report.galleries]
    return replace(report, galleries=galleries, sample=[same(pair) for pair in report.sample])


def _estimate(value: float) -> Estimate:
    return Estimate(value, value * 0.8, min(value * 1.1, 1.0), 0.95, "the trusted pairs")


def _share(value: float) -> Share:
    return Share(min(value, 1.0), value * 0.9, min(value * 1.05, 1.0))
