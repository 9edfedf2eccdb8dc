"""What was measured is kept, found again, and written as one tidy CSV."""

from __future__ import annotations

import csv

from records import Results, write_csv


def test_what_was_measured_is_found_again(tmp_path):
    results = Results(tmp_path)
    assert not results.has("plan", "ncr")
    results.add("plan", "ncr", {"auroc": 0.9, "rsum": None})
    assert Results(tmp_path).has("plan", "ncr")
    assert not results.has("plan", "vse++")
    assert not results.has("other plan", "ncr")
    assert results.all() == [{"auroc": 0.9, "rsum": None}]


def test_names_of_variants_are_no_paths_and_do_not_meet(tmp_path):
    results = Results(tmp_path)
    names = ["nccleaner", "nccleaner train.margin=0.3", "nccleaner ../other.toml"]
    for name in names:
        results.add("plan", name, {"method": name})
    assert sorted(record["method"] for record in results.all()) == sorted(names)
    assert {path.parent for path in tmp_path.rglob("*.json")} == {tmp_path / "plan"}


def test_the_csv_has_a_row_a_record_and_every_column(tmp_path):
    path = tmp_path / "noise.csv"
    write_csv([{"method": "ridge", "auroc": 0.9}, {"method": "ncr", "rsum": 200.5}], path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"method": "ridge", "auroc": "0.9", "rsum": ""},
        {"method": "ncr", "auroc": "", "rsum": "200.5"},
    ]
