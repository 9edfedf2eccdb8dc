"""Files in a run directory that would execute something if they were unpickled."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from smallfit import tiny

import nccleaner
from nccleaner.errors import NccleanerError


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def run(fitted, tmp_path) -> Path:
    return shutil.copytree(fitted.run, tmp_path / "run")


@pytest.fixture
def went_off(tmp_path) -> Path:
    return tmp_path / "went-off"


def as_array(path: Path, bomb: Bomb) -> None:
    np.save(path, np.array([bomb], dtype=object), allow_pickle=True)


def as_pickle(path: Path, bomb: Bomb) -> None:
    path.write_bytes(pickle.dumps(bomb))


def as_checkpoint(path: Path, bomb: Bomb) -> None:
    torch.save({"fingerprint": bomb, "training": bomb}, path)


def test_the_bomb_goes_off_where_it_is_unpickled(tmp_path, went_off):
    as_array(tmp_path / "bomb.npy", Bomb(went_off))
    np.load(tmp_path / "bomb.npy", allow_pickle=True)
    assert went_off.exists()


@pytest.mark.parametrize("write", [as_array, as_pickle])
@pytest.mark.parametrize("name", ["image.npy", "text.npy"])
def test_features_are_made_anew(run, fitted, went_off, write, name):
    feature = run / "features" / "00000" / name
    scores = (run / "scores" / "00000.parquet").read_bytes()
    good = feature.read_bytes()
    write(feature, Bomb(went_off))
    (run / "scores" / "00000.parquet").unlink()
    nccleaner.score(run)
    assert feature.read_bytes() == good
    assert (run / "scores" / "00000.parquet").read_bytes() == scores
    assert not went_off.exists()


@pytest.mark.parametrize("write", [as_checkpoint, as_pickle])
def test_training_starts_anew(run, fitted, trusted_csv, went_off, write):
    write(run / "checkpoints" / "state.pt", Bomb(went_off))
    nccleaner.fit(fitted.shards, meta=trusted_csv, run=run, config=tiny())
    assert not went_off.exists()


@pytest.mark.parametrize(
    "name",
    [
        "run.json",
        "checkpoints/best.safetensors",
        "checkpoints/pool.parquet",
        "checkpoints/trusted.parquet",
        "scores/00000.parquet",
        "features/00000/samples.parquet",
        "features/00000/part.json",
    ],
)
def test_a_purge_refuses_or_makes_it_anew(run, went_off, name):
    as_pickle(run / name, Bomb(went_off))
    if name == "checkpoints/pool.parquet":
        (run / "scores" / "00000.parquet").unlink()  # else it is not read
    if name.startswith(("scores", "features")):
        nccleaner.purge(run)
    else:
        with pytest.raises(NccleanerError):
            nccleaner.purge(run)
    assert not went_off.exists()


@pytest.mark.parametrize("name", ["image.faiss", "text.faiss", "index.json", "ids.parquet"])
def test_a_search_refuses_it(run, went_off, name):
    as_pickle(run / "clean" / "index" / name, Bomb(went_off))
    with pytest.raises(NccleanerError):
        nccleaner.search(run, "a red car")
    assert not went_off.exists()


@pytest.mark.parametrize("write", [as_array, as_pickle])
def test_a_keep_set_refuses_it(run, went_off, write):
    nccleaner.KeepSet(run)  # the one that was copied is named by other file times
    (keepset,) = (run / "clean").glob("keepset-*.npy")
    write(keepset, Bomb(went_off))
    with pytest.raises(NccleanerError):
        nccleaner.KeepSet(run)
    assert not went_off.exists()
