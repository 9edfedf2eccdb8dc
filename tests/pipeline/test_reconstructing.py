"""A fit that reconstructs: what it adds to the run, and what it leaves as it was."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from smallfit import tiny

import nccleaner

BOTH = {"image_reconstruction": 0.1, "caption_reconstruction": 0.1}
MODEL = {"generator_width": 2, "vocabulary": 400, "embedding_width": 8}


@pytest.fixture(scope="module")
def rebuilt(fitted, trusted_csv, tmp_path_factory) -> Path:
    """A fit with both reconstructions, in a directory with features of one without."""
    run = tmp_path_factory.mktemp("rebuilt") / "run"
    shutil.copytree(fitted.run / "features", run / "features")
    nccleaner.fit(fitted.shards, meta=trusted_csv, run=run, config=tiny(train=BOTH, model=MODEL))
    return run


def read_epochs(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "epoch"]


def test_a_fit_writes_a_sheet_of_pairs_beside_their_reconstructions(rebuilt, clipart):
    with Image.open(rebuilt / "reconstruction" / "sheet.png") as sheet:
        sheet.load()
        assert min(sheet.size) > 500
    with (rebuilt / "reconstruction" / "captions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["from"] for row in rows] == ["pool"] * 8 + ["held out"] * 8
    known = {" ".join(row.caption.lower().split()) for row in clipart.rows}
    shown = [" ".join(row["caption"].split()) for row in rows]
    assert all(any(caption.startswith(text) for caption in known) for text in shown)
    trusted = {
        " ".join(row.caption.lower().split()) for row in clipart.rows if row.key in clipart.trusted
    }
    assert all(any(caption.startswith(text) for caption in trusted) for text in shown[8:])


def test_losses_of_reconstruction_are_in_the_metrics(rebuilt, fitted):
    names = {"generator_loss", "discriminator_loss", "caption_loss"}
    epochs = read_epochs(rebuilt)
    for epoch in epochs:
        assert set(epoch["reconstruction"]) == names
        assert all(np.isfinite(value) and value > 0 for value in epoch["reconstruction"].values())
    assert (
        epochs[-1]["reconstruction"]["caption_loss"] < epochs[0]["reconstruction"]["caption_loss"]
    )
    assert all(epoch["reconstruction"] == {} for epoch in read_epochs(fitted.run))


def test_a_fit_without_has_nothing_of_it(fitted):
    assert not (fitted.run / "reconstruction").exists()
    assert not list(fitted.run.rglob("target.npy"))


def test_features_with_targets_are_used_by_a_fit_without(rebuilt, fitted, trusted_csv, tmp_path):
    """That fit is, bit by bit, what it is without targets in the cache."""
    run = tmp_path / "run"
    shutil.copytree(rebuilt, run)
    parts = sorted((run / "features").rglob("*.npy"))
    assert [path.name for path in parts].count("target.npy") == 2
    before = [path.stat().st_mtime_ns for path in parts]

    nccleaner.fit(fitted.shards, meta=trusted_csv, run=run, config=tiny())

    assert [path.stat().st_mtime_ns for path in parts] == before
    assert not (run / "reconstruction").exists()
    plain = fitted.run / "checkpoints" / "best.safetensors"
    assert (run / "checkpoints" / "best.safetensors").read_bytes() == plain.read_bytes()


def test_captions_are_rebuilt_from_what_a_gru_read(fitted, trusted_csv, tmp_path):
    run = tmp_path / "run"
    config = tiny(
        encoders={"text": "gru"},
        train={"caption_reconstruction": 0.1},
        model={**MODEL, "max_tokens": 8},
    )
    nccleaner.fit(fitted.shards, meta=trusted_csv, run=run, config=config)
    assert [path.name for path in (run / "reconstruction").iterdir()] == ["captions.csv"]
    assert not list(run.rglob("target.npy"))
    for epoch in read_epochs(run):
        assert set(epoch["reconstruction"]) == {"caption_loss"}
