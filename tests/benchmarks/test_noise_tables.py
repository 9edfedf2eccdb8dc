"""The tables of the noise benchmark. What is in them is measured by running it."""

from __future__ import annotations

from dataclasses import fields

from flickr8k import TrainingPlan
from noise import TABLES, Column, table

from nccleaner.evaluate.detection import DetectionMetrics
from nccleaner.evaluate.retrieval import RetrievalMetrics

COLUMNS = (
    Column("noise", "plan", "kind", "s"),
    Column("AUROC", "detection", "auroc", ".3f"),
    Column("error", "noise_rate", "error", "+.3f"),
)


def test_a_table_is_aligned_and_what_is_undefined_is_a_dash():
    records = [
        {"plan": {"kind": kind}, "detection": {"auroc": auroc}, "noise_rate": {"error": error}}
        for kind, auroc, error in (("random", 0.98512, -0.0104), ("block", None, 0.0))
    ]
    assert table(COLUMNS, records).splitlines() == [
        "|  noise | AUROC |  error |",
        "|-------:|------:|-------:|",
        "| random | 0.985 | -0.010 |",
        "|  block |     - | +0.000 |",
    ]


def test_columns_show_figures_that_the_commands_give():
    parts = {"plan": TrainingPlan, "detection": DetectionMetrics, "retrieval": RetrievalMetrics}
    for column in (column for columns in TABLES.values() for column in columns):
        if column.part in parts:
            assert column.name in {field.name for field in fields(parts[column.part])}
