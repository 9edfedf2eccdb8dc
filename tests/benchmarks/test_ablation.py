"""Variants and tables of the ablation. What is in them is measured by running it."""

from __future__ import annotations

import pytest
from ablation import BASE, VARIANTS, merged, most_demanding, table

from nccleaner.config import RunConfig
from nccleaner_cli.settings import build_config


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_are_settings_that_fit_takes(name):
    build_config(None, None, VARIANTS[name], {})


def test_both_sides_of_a_switch_are_never_both_the_base():
    base = RunConfig()
    for on, off in (
        ("image-reconstruction", "no-image-reconstruction"),
        ("prior-anchor", "prior-init"),
        ("meta-gradient-direct", "meta-gradient-exact"),
    ):
        configs = [build_config(None, None, VARIANTS[name], {}) for name in (on, off)]
        assert any(config != base for config in configs)


def test_a_setting_of_the_variant_takes_the_place_of_the_base():
    settings = merged(["train.modality=0.5", "train.epochs=4"], ["train.modality=0"])
    assert settings == ["train.modality=0", "train.epochs=4"]


def test_features_are_made_for_the_variant_that_wants_most():
    plain, rebuilding = RunConfig(), build_config(None, None, ["train.image_reconstruction=1"], {})
    assert most_demanding([plain, rebuilding, plain]) == rebuilding
    assert most_demanding([plain, plain]) == plain


def test_differences_are_taken_seed_by_seed():
    def record(variant, seed, auroc):
        return {"variant": variant, "seed": seed, "auroc": auroc, "rsum": 200.0}

    records = [
        record(BASE, 0, 0.9),
        record(BASE, 1, 0.8),
        record("one-network", 0, 0.89),
        record("one-network", 1, 0.79),
        record("no-hinge", 1, 0.85),
    ]
    rows = {
        cells[0]: cells
        for line in table(records).splitlines()
        if (cells := [cell.strip() for cell in line.strip("|").split("|")])
    }
    assert rows[BASE][1:4] == ["2", "0.8500 ± 0.0707", "-"]
    assert rows["one-network"][1:4] == ["2", "0.8400 ± 0.0707", "-0.0100 ± 0.0000"]
    assert rows["no-hinge"][1:4] == ["1", "0.8500", "+0.0500"]
