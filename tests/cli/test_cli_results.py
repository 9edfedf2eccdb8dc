import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

from nccleaner.data.trusted import RowProblem
from nccleaner.evaluate.detection import DetectionMetrics
from nccleaner.evaluate.retrieval import RetrievalMetrics
from nccleaner.output.index.building import IndexReport
from nccleaner.output.summary import Choice, CutOff, Estimate, Promise, Share, Summary
from nccleaner.pipeline.results import FitResult, Hit, IndexResult, PurgeResult, Reading
from nccleaner_cli.console import Display
from nccleaner_cli.results import (
    show_detection,
    show_fit,
    show_hits,
    show_index,
    show_purge,
    show_reading,
    show_retrieval,
)

READING = Reading(
    shards=2,
    samples=1100,
    pairs=1050,
    rejects={"undecodable_image": 10, "empty_caption": 30, "truncated_shard": 10},
    problems={"00001": "ends in the middle of a member"},
)
DETECTION = DetectionMetrics(
    pairs=1050,
    dropped_mismatched=290,
    dropped_matched=30,
    kept_mismatched=25,
    kept_matched=705,
    auroc=0.931,
    auprc=0.88,
    f1=None,
    best_f1=0.92,
    best_cutoff=0.4412,
    calibration_error=0.031,
    noise_rate=0.3,
    estimated_noise_rate=0.312,
)


def shown(show: Callable[[Display], None]) -> str:
    stream = io.StringIO()
    show(Display(stdout=stream, stderr=stream, width=80))
    return "".join(f"{line.rstrip()}\n" for line in stream.getvalue().splitlines())


def test_reading():
    assert (
        shown(lambda display: show_reading(display, READING, "run.json"))
        == """
Read 2 shards: 1,100 samples, 1,050 pairs
  No pair because    Samples  Share
  empty_caption           30   2.7%
  truncated_shard         10   0.9%
  undecodable_image       10   0.9%
  Shard 00001: ends in the middle of a member
"""
    )


def test_fit():
    result = FitResult(
        run=Path("my-run"),
        reading=Reading(1, 1, 1, {}, {}),
        trusted={"meta": 92, "probe": 93, "held_out": 46, "sample": 0},
        trusted_problems=[RowProblem(row, "names nothing") for row in range(2, 14)],
        warning="Few trusted pairs.",
        pool=1008,
        epochs=12,
        best_epoch=9,
        held_out_auroc=0.9312,
        probe_auroc=0.921,
        exchanged=50,
        noise_rate=0.312,
        training_s=41.2,
        seconds=63.4,
    )
    problems = "".join(f"  Row {row}: names nothing\n" for row in range(2, 12))
    assert (
        shown(lambda display: show_fit(display, result))
        == f"""
Read 1 shard: 1 sample, 1 pair

Used 231 trusted pairs
  Guide training        92
  Planted to calibrate  93
  Held out to judge     46
Skipped 12 rows of the trusted file:
{problems}  ... and 2 more, see my-run/run.json

Trained on 1,008 pairs
  Captions exchanged     50, to calibrate by
  Epochs                 12, of which number 9 is kept
  AUROC, held-out pairs  0.931
  AUROC, planted pairs   0.921
  Estimated mismatched   31.2%
  Time                   1 min 3 s, training 41 s
"""
    )


def test_purge():
    def estimate(value: float) -> Estimate:
        return Estimate(value, value - 0.031, value + 0.034, 0.95, "93 planted pairs")

    summary = Summary(
        samples=1100,
        kept=742,
        dropped={"mismatched": 308, "empty_caption": 50},
        cut_off=CutOff("clean_probability", 0.5, "meta_prior"),
        mismatched_before=estimate(0.312),
        mismatched_after=estimate(0.041),
        good_lost=None,
        precision=Estimate(0.959, 0.925, 0.99, 0.95, "93 planted pairs"),
        recall=None,
        evidence="trusted_pairs",
        promise=None,
        cut_offs=[
            Choice(0.0, 1050, Share(0.312, 0.281, 0.346), Share(1, 1, 1)),
            Choice(0.6134, 420, None, Share(0.5, 0.4123, 0.58)),
        ],
        shard_problems={},
        renamed_columns={},
        derived_uids=0,
        versions={},
    )
    result = PurgeResult(Path("clean"), summary, 2.24)
    assert (
        shown(lambda display: show_purge(display, result))
        == """
Kept 742 of 1,100 samples, dropped 358
  Cut-off    clean_probability >= 0.5
  Chosen by  more likely matched than not, by the trusted pairs
  Time       2.2 s

  Dropped because  Samples  Share
  mismatched           308  28.0%
  empty_caption         50   4.5%

  Estimated                            Share    95% interval
  Mismatched before                    31.2%  28.1% to 34.6%
  Mismatched among the kept             4.1%    1.0% to 7.5%
  Good among the kept (precision)      95.9%  92.5% to 99.0%
  Good pairs kept (recall)         not known
Estimated from: 93 planted pairs.

  If you cut at  you keep  of which mismatched        and of the good
         0.0000     1,050   31.2% (28.1-34.6%)  100.0% (100.0-100.0%)
         0.6134       420            not known     50.0% (41.2-58.0%)
Take one with --threshold CUT --by clean-probability.
"""
    )
    promised = dataclasses.replace(
        summary,
        cut_off=CutOff("clean_probability", 0.7, "target_precision"),
        promise=Promise(target=0.9, bound=0.9132, level=0.95),
    )
    text = shown(lambda display: show_purge(display, PurgeResult(Path("clean"), promised, 2.24)))
    assert "Chosen by  the target precision given\n" in text
    said = "Promised   91.3% or more of the unlabelled kept are matched (95% sure)\n"
    assert said in text


def test_index():
    report = IndexReport(
        kind="ivf-pq",
        factory="OPQ64_256,IVF4000,PQ64np",
        count=1_200_000,
        size_bytes={"image": 93_400_000, "text": 1_093_400_000},
        effort={"image": 16, "text": 8},
        recall_at_10={"image": 0.8765, "text": None},
    )
    result = IndexResult(Path("index"), report, 61)
    assert (
        shown(lambda display: show_index(display, result))
        == """
Indexed 1,200,000 pairs: ivf-pq (OPQ64_256,IVF4000,PQ64np)
  Index        Size    Recall@10
  image     93.4 MB        0.876
  text   1,093.4 MB  not defined
  Time  1 min 1 s
"""
    )


def test_hits():
    hits = [Hit(0, "00000", "000000042", "A \x1b[31mred [red]car " * 9, 0.9, "image")]
    assert shown(lambda display: show_hits(display, hits)) == (
        "  Product  Pair             Caption\n"
        "    0.900  00000/000000042  A \\x1b[31mred [red]car A \\x1b[31mred [red]car A \\x1…\n"
    )


def test_detection():
    assert (
        shown(lambda display: show_detection(display, DETECTION))
        == """
Compared with the truth about 1,050 pairs, 30.0% of them mismatched
              Kept  Dropped
  Matched      705       30
  Mismatched    25      290

  AUROC                   0.931
  AUPRC                   0.880
  F1 of the decision      not defined
  F1 of the best cut-off  0.920, at corrected_similarity >= 0.441
  Calibration error       0.031
  Estimated mismatched    31.2%
"""
    )


def test_retrieval():
    metrics = RetrievalMetrics(1000, 5000, 60.1, 85.2, 93.3, 45.2, 75.9, 85.2, 444.9)
    assert (
        shown(lambda display: show_retrieval(display, metrics))
        == """
Retrieval among 1,000 images and 5,000 captions
                         R@1    R@5   R@10
  Caption of an image  60.1%  85.2%  93.3%
  Image of a caption   45.2%  75.9%  85.2%
  Sum of the six  444.9 of 600
"""
    )
    in_folds = shown(lambda display: show_retrieval(display, metrics, folds=5))
    assert "Retrieval among 1,000 images and 5,000 captions, mean of 5 folds\n" in in_folds
