"""Files that would execute something if they were unpickled, or if what they name were imported."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from smallfit import tiny

import nccleaner
from nccleaner.data.trusted import read_trusted
from nccleaner.encoders.sentences import load_text_encoder
from nccleaner.encoders.tokens import read_tokenizer
from nccleaner.encoders.weights import load_state
from nccleaner.errors import InputError, NccleanerError, TrustedError
from nccleaner.files import read_parquet


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
        "scores.json",
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
    if name.startswith(("scores/", "features")):
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


@pytest.mark.parametrize("write", [as_checkpoint, as_pickle])
@pytest.mark.parametrize("name", ["weights.pth", "weights.pt", "weights.safetensors"])
def test_weights_that_the_user_names_are_refused(tmp_path, went_off, write, name):
    write(tmp_path / name, Bomb(went_off))
    with pytest.raises(InputError, match="the weights cannot be read"):
        load_state(tmp_path / name)
    assert not went_off.exists()


@pytest.mark.parametrize("name", ["trusted.csv", "trusted.tsv", "trusted.parquet"])
def test_a_trusted_file_is_refused(tmp_path, went_off, name):
    as_pickle(tmp_path / name, Bomb(went_off))
    with pytest.raises(TrustedError):
        read_trusted(tmp_path / name)
    assert not went_off.exists()


def test_a_tokenizer_is_refused(went_off):
    with pytest.raises(InputError, match="tokenizer cannot be read"):
        read_tokenizer(pickle.dumps(Bomb(went_off), protocol=0).decode())
    assert not went_off.exists()


def test_an_extension_type_and_pandas_metadata_are_not_followed(tmp_path, went_off):
    """pyarrow would unpickle such a type; pandas makes objects by the names in its metadata."""
    pickled = pickle.dumps(Bomb(went_off))
    field = pa.field(
        "key",
        pa.string(),
        metadata={
            b"ARROW:extension:name": b"arrow.py_extension_type",
            b"ARROW:extension:metadata": pickled,
        },
    )
    notes = {b"pandas": json.dumps({"columns": [{"pandas_type": pickled.hex()}]}).encode()}
    schema = pa.schema([field, pa.field("caption", pa.string())], metadata=notes)
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["a dog"])], schema=schema)
    pq.write_table(table, tmp_path / "trusted.parquet")
    assert [row.value for row in read_trusted(tmp_path / "trusted.parquet").rows] == ["a"]
    assert read_parquet(tmp_path / "trusted.parquet")["caption"].to_pylist() == ["a dog"]
    assert not went_off.exists()


def test_a_text_encoder_brings_no_code(tmp_path, went_off):
    folder = tmp_path / "encoder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    modules = [{"idx": 0, "name": "0", "path": "", "type": "evil.Evil"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "evil.py").write_text(
        f"import os\nos.mkdir({str(went_off)!r})\n\n\nclass Evil:\n    pass\n"
    )
    with pytest.raises(InputError, match="the sentence encoder cannot be loaded"):
        load_text_encoder(str(folder), device="cpu")
    assert not went_off.exists()


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_modules_in_the_folder_of_the_command_are_not_imported(run, tmp_path, went_off, engine):
    """Ray, and Python itself by `-m` and `-c`, look there first in processes that they start."""
    folder = tmp_path / "downloaded"
    folder.mkdir()
    for name in ("signal", "tempfile", "nccleaner", "PIL", "pyarrow"):
        (folder / f"{name}.py").write_text(f"import os\nos.mkdir({str(went_off)!r})\n")
    shutil.rmtree(run / "features")
    shutil.rmtree(run / "scores")
    description = json.loads((run / "run.json").read_text())
    description["config"]["data"]["workers"] = 1
    (run / "run.json").write_text(json.dumps(description))
    command = [Path(sys.executable).with_name("nccleaner"), "score", "--run", run]
    scored = subprocess.run(
        [*command, "--engine", engine],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert not went_off.exists()
    assert scored.returncode == 0, scored.stderr
    assert (run / "scores" / "00000.parquet").exists()
