import dataclasses
import json
from pathlib import Path

import pytest

from nccleaner.output.summary import (
    Choice,
    CutOff,
    Estimate,
    Promise,
    Share,
    Summary,
    write_summary,
)

SUMMARY = Summary(
    samples=10,
    kept=6,
    dropped={"mismatched": 3, "empty_caption": 1},
    cut_off=CutOff(column="clean_probability", value=0.5, rule="meta_prior"),
    mismatched_before=Estimate(0.4, 0.35, 0.45, 0.95, "mixture fitted with 200 trusted pairs"),
    mismatched_after=Estimate(0.02, 0.01, 0.04, 0.95, "mixture fitted with 200 trusted pairs"),
    good_lost=None,
    precision=Estimate(0.98, 0.96, 0.99, 0.95, "mixture fitted with 200 trusted pairs"),
    recall=None,
    evidence="trusted_pairs",
    promise=Promise(target=0.9, bound=0.96, level=0.95),
    cut_offs=[Choice(0.25, 7, Share(0.1, 0.05, 0.2), None), Choice(0.5, 6, None, None)],
    shard_problems={"00003": "truncated"},
    renamed_columns={"status": "nccleaner_status"},
    derived_uids=10,
    versions={"nccleaner": "0.1.0"},
)


def test_the_file_says_what_the_summary_says(tmp_path: Path) -> None:
    write_summary(SUMMARY, tmp_path / "summary.json")
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written == dataclasses.asdict(SUMMARY)
    assert written["mismatched_before"]["low"] == 0.35
    assert written["cut_offs"][0]["mismatched"] == {"value": 0.1, "low": 0.05, "high": 0.2}


def test_counts_that_do_not_add_up_are_a_bug() -> None:
    with pytest.raises(AssertionError, match="lost"):
        dataclasses.replace(SUMMARY, kept=7)
