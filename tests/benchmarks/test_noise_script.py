"""Tables and figures of the noise benchmark. What is in them is measured by running it."""

from __future__ import annotations

from dataclasses import fields

import pytest
from figures import draw_ratios, draw_trusted
from measuring import METHODS
from noise import FIGURES, Figure, table
from PIL import Image
from tables import markdown, summary

from nccleaner.evaluate.detection import DetectionMetrics
from nccleaner.evaluate.retrieval import RetrievalMetrics

AUROC = Figure("AUROC", "auroc", ".3f", 1)


def record(method, *, seed=0, ratio=0.4, trusted=600, **figures):
    cell = {"images": 6000, "captions": 1, "kind": "random", "ratio": ratio, "trusted": trusted}
    return {**cell, "seed": seed, "method": method, **figures}


def test_a_cell_is_the_mean_and_the_deviation_over_seeds():
    records = [{"auroc": 0.9}, {"auroc": 0.92}, {"auroc": None}, {}]
    assert summary(records[:1], "auroc", ".3f") == "0.900"
    assert summary(records, "auroc", ".3f") == "0.910 ± 0.014"
    assert summary(records, "auroc", "+.3f") == "+0.910 ± 0.014"
    assert summary(records[2:], "auroc", ".3f") == "-"


def test_a_table_is_aligned():
    assert markdown(["a", "long"], [["1", "2"], ["333", "4"]]).splitlines() == [
        "|   a | long |",
        "|----:|-----:|",
        "|   1 |    2 |",
        "| 333 |    4 |",
    ]


def test_nccleaner_is_ahead_of_the_best_baseline_or_behind():
    records = [
        record("nccleaner", auroc=0.97),
        record("nccleaner", seed=1, auroc=0.99),
        record("ncr", auroc=0.975),
        record("ridge", auroc=0.9),
        record("clean-only", auroc=0.999),  # a ceiling, no baseline
        record("nccleaner", ratio=0.6, auroc=0.95),
        record("ncr", ratio=0.6, auroc=0.96),
    ]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table(AUROC, records).splitlines()
    ]
    methods = ["nccleaner", "ncr", "ridge", "clean-only"]
    assert rows[0][6:] == [*methods, "ahead"]
    assert rows[2][3:] == [
        *("0.4", "600", "2"),
        *("0.980 ± 0.014", "0.975", "0.900", "0.999"),
        "+0.005",
    ]
    assert rows[3][3:] == ["0.6", "600", "1", "0.950", "0.960", "-", "-", "-0.010"]


def test_less_is_better_for_errors():
    figure = Figure("Error", "calibration_error", ".3f", -1)
    records = [
        record("nccleaner", calibration_error=0.02),
        record("ncr", calibration_error=0.05),
        record("ridge", calibration_error=0.09),
    ]
    assert table(figure, records).splitlines()[-1].endswith("| +0.030 |")


def test_variants_stand_behind_their_method():
    records = [record(name, auroc=0.9) for name in ("ncr", "nccleaner train.epochs=8", "nccleaner")]
    heading = table(AUROC, records).splitlines()[0]
    assert heading.index(" nccleaner |") < heading.index("train.epochs=8") < heading.index("ncr |")


def test_figures_that_tables_show_are_measured():
    measured = {
        field.name for kind in (DetectionMetrics, RetrievalMetrics) for field in fields(kind)
    }
    assert {figure.name for figure in FIGURES} - measured == {"noise_error", "dropped", "seconds"}


@pytest.mark.parametrize(("draw", "against"), [(draw_ratios, "ratio"), (draw_trusted, "trusted")])
def test_figures_are_small_and_appear_when_there_is_something_to_compare(draw, against, tmp_path):
    path = tmp_path / "figure.png"
    places = {"ratio": (0.2, 0.4), "trusted": (150, 600)}[against]

    def records(chosen):
        return [
            record(method, seed=seed, auroc=0.9 + 0.01 * seed, rsum=200.0, **{against: place})
            for method in METHODS
            for seed in range(2)
            for place in chosen
        ]

    draw(records(places[:1]), path)
    assert not path.exists()
    draw(records(places), path)
    with Image.open(path) as image:
        assert image.format == "PNG"
    assert path.stat().st_size < 100_000
