"""The kept pairs as vectors: those of a small run are kept, and need no networks then."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest

from nccleaner.pipeline import vectors as module
from nccleaner.pipeline.reporter import SilentReporter
from nccleaner.pipeline.score import Scoring
from nccleaner.pipeline.vectors import KeptVectors

PURGE = """
import sys
import nccleaner
nccleaner.purge(sys.argv[1], keep_fraction=0.4)
print(*sys.modules)
"""
SLOW_TO_LOAD = {"torch", "torchvision", "sklearn", "scipy", "tokenizers"}


@pytest.fixture
def run(fitted, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(fitted.run, copy)
    return copy


def kept_vectors(run) -> KeptVectors:
    scoring = Scoring.open(run, None)
    shards = scoring.inputs()
    return KeptVectors(scoring, shards, scoring.store.parts(shards, SilentReporter()))


def every_vector(run) -> dict[str, np.ndarray]:
    vectors = kept_vectors(run)
    return {name: np.concatenate(list(vectors.blocks(name))) for name in ("image", "text")}


def test_vectors_that_were_kept_are_those_that_are_computed(run, monkeypatch):
    shutil.rmtree(run / "embeddings", ignore_errors=True)
    kept = every_vector(run)
    files = sorted((run / "embeddings").iterdir())
    assert [path.suffix for path in files] == [".safetensors"] * len(kept_vectors(run)._kept)
    again = every_vector(run)
    shutil.rmtree(run / "embeddings")
    monkeypatch.setattr(module, "_FEW", 0)
    computed = every_vector(run)
    assert not (run / "embeddings").exists()
    for name, expected in computed.items():
        assert np.array_equal(again[name], kept[name])
        assert np.allclose(kept[name], expected, atol=1e-6)


def test_vectors_of_another_fit_or_damaged_ones_are_made_anew(run):
    kept = every_vector(run)
    path = min((run / "embeddings").iterdir())
    whole = path.read_bytes()
    for content in (
        b"",
        whole[:1000],
        whole.replace(b'"nccleaner":"', b'"nccleaner":"f00', 1)[:-3],
    ):
        path.write_bytes(content)
        again = every_vector(run)
        assert all(np.array_equal(again[name], kept[name]) for name in kept)
        assert path.read_bytes() == whole


def test_another_cut_off_loads_no_networks(run):
    every_vector(run)
    command = [sys.executable, "-c", PURGE, str(run)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert not SLOW_TO_LOAD & set(done.stdout.split())
    assert (run / "clean" / "index" / "image.faiss").exists()
