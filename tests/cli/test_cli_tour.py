import io
from collections.abc import Callable
from pathlib import Path

import pytest

from nccleaner.evaluate.detection import DetectionMetrics
from nccleaner.output.summary import CutOff, Estimate, Summary
from nccleaner.pipeline.results import FitResult, PurgeResult, Reading, ReportResult
from nccleaner_cli import tour
from nccleaner_cli.console import Display
from nccleaner_cli.example import Reject


def told(tell: Callable[[Display], None]) -> str:
    stream = io.StringIO()
    tell(Display(stdout=stream, stderr=stream, width=80))
    return " ".join(stream.getvalue().split())


def purged(samples: int) -> PurgeResult:
    summary = Summary(
        samples=samples,
        kept=700,
        dropped={"mismatched": samples - 700},
        cut_off=CutOff("clean_probability", 0.5, "meta_prior"),
        mismatched_before=Estimate(0.312, 0.28, 0.345, 0.95, "probes"),
        mismatched_after=None,
        good_lost=Estimate(0.033, 0.01, 0.05, 0.95, "probes"),
        precision=None,
        recall=Estimate(0.967, 0.95, 0.99, 0.95, "probes"),
        evidence="trusted_pairs",
        promise=None,
        cut_offs=[],
        shard_problems={},
        renamed_columns={},
        derived_uids=0,
        versions={},
    )
    return PurgeResult(Path("clean"), summary, 2.0)


def test_fit_is_told_from_its_result():
    reading = Reading(3, 1050, 1049, {"empty_caption": 1}, {})
    parts = {"meta": 90, "probe": 90, "held_out": 50, "sample": 0}
    fitted = FitResult(Path("r"), reading, parts, [], "", 990, 50, 11, 9, 0.934, 0.9, 0.312, 40, 61)
    text = told(lambda display: tour.tell_fit(display, fitted))
    for part in ("1,050 samples", "3 shards", "1,049 pairs", "11 epochs", "93.4%", "31.2%"):
        assert part in text
    assert text.endswith("(1 min 1 s)")


def test_rows_are_counted_in_the_files():
    def tell(rows: tuple[int, int]) -> str:
        rejects = [Reject("00000/1", "a cat", "a \x1b[2Jdog")]
        return told(
            lambda display: tour.tell_purge(display, purged(1050), rows=rows, rejects=rejects)
        )

    text = tell((700, 350))
    assert "700 rows in manifest/ + 350 in rejected/ = 1,050; 1,050 samples came in" in text
    assert "every sample is in one of them" in text
    assert "31.2% (28.0% to 34.5%) of all pairs were mismatched" in text
    assert "of the kept ones" not in text
    assert "3.3% (1.0% to 5.0%) of the good ones were lost" in text
    assert text.endswith(r"Pair Title Caption in the shard 00000/1 a cat a \x1b[2Jdog")
    assert "5 SAMPLES ARE LOST" in tell((700, 345))


@pytest.mark.parametrize(("auroc", "said"), [(0.931, "AUROC 0.931"), (None, "AUROC not defined")])
def test_detection_is_told_from_its_metrics(auroc, said):
    metrics = DetectionMetrics(
        pairs=1050,
        dropped_mismatched=290,
        dropped_matched=30,
        kept_mismatched=25,
        kept_matched=705,
        auroc=auroc,
        auprc=None,
        f1=None,
        best_f1=None,
        best_cutoff=None,
        calibration_error=0.1,
        noise_rate=0.3,
        estimated_noise_rate=0.3,
    )
    text = told(lambda display: tour.tell_detection(display, metrics, 0.7))
    assert said in text
    for row in (
        "caught 290 of 315 92.1%",
        "lost 30 of 735 4.1%",
        "before 735 of 1,050 70.0%",
        "kept 705 of 730 96.6%",
    ):
        assert row in text


def test_the_report_is_named():
    report = ReportResult(Path("run/clean/report.html"), 1_700_000, 6.0)
    text = told(lambda display: tour.tell_report(display, report))
    assert "run/clean/report.html (6.0 s)" in text
