"""The whole job with both towers of a CLIP model: a tiny one, with random weights in a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from smallfit import tiny
from tinyclip import write_tiny_clip

pytest.importorskip("open_clip")

import nccleaner
from nccleaner.config import EncodersConfig
from nccleaner.errors import RunError, UsageError
from nccleaner.pipeline.backbones import Backbones


@pytest.fixture(scope="module")
def name(tmp_path_factory: pytest.TempPathFactory) -> str:
    architecture, weights = write_tiny_clip(tmp_path_factory.mktemp("clip"))
    return f"open_clip:{architecture}/{weights}"


def test_a_fit_a_purge_and_a_search_with_clip_towers(name, shards, trusted_csv, clipart, tmp_path):
    run = tmp_path / "run"
    config = tiny(encoders={"image": name, "text": name})

    fitted = nccleaner.fit(shards, meta=trusted_csv, run=run, config=config)
    summary = nccleaner.purge(run, keep_fraction=0.5).summary
    hits = nccleaner.search(run, "a bird", count=3)

    assert fitted.reading.pairs == summary.samples == len(clipart.rows)
    captions = {row.key: row.caption for row in clipart.rows}
    assert [hit.caption for hit in hits] == [captions[hit.key] for hit in hits]
    encoders = json.loads((run / "run.json").read_text())["encoders"]
    assert all("tiny-of-nccleaner/tiny.safetensors" in encoders[half] for half in encoders)

    Path(name.partition("/")[2]).rename(tmp_path / "moved.safetensors")
    with pytest.raises((RunError, UsageError), match=r"tiny\.safetensors"):
        nccleaner.search(run, "a bird")


def test_both_halves_share_one_model_and_a_mixture_takes_one(tmp_path):
    architecture, weights = write_tiny_clip(tmp_path)
    name = f"open_clip:{architecture}/{weights}"
    backbones = Backbones(EncodersConfig(image=name, text=name, device="cpu"))
    assert backbones.image.network.backbone.model is backbones.text._model
    assert Backbones(EncodersConfig(image=name, text="gru", device="cpu")).text is None


def test_weights_named_twice_are_refused(tmp_path):
    architecture, weights = write_tiny_clip(tmp_path)
    config = EncodersConfig(
        image=f"open_clip:{architecture}/{weights}", image_weights=weights, device="cpu"
    )
    with pytest.raises(UsageError, match="image_weights"):
        _ = Backbones(config).image
