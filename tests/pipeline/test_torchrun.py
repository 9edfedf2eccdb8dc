"""`nccleaner fit` as two real processes, started by torchrun, beside one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import spread
import torch
from safetensors.torch import load_file
from smallfit import tiny

import nccleaner
from nccleaner.config import RunConfig
from nccleaner.errors import UsageError
from nccleaner.pipeline.reporter import SilentReporter
from nccleaner.pipeline.training import refuse_to_divide

# Rounded factors would differ by more than what is to be shown.
EPOCHS = 20
CONFIG = tiny(train={"epochs": EPOCHS, "warm_up": 0.4, "precision": "float32"})


@pytest.fixture(scope="module")
def alone(shards, trusted_csv, tmp_path_factory):
    """A run that one process fitted, with its scores."""
    run = tmp_path_factory.mktemp("alone") / "run"
    result = nccleaner.fit(shards, meta=trusted_csv, run=run, config=CONFIG)
    nccleaner.score(run)
    return run, result


def start_beside(folder, run):
    """A run directory that has the features of another, and settings as a file."""
    shutil.copytree(run / "features", folder / "run" / "features")
    (folder / "config.json").write_text(CONFIG.model_dump_json())
    return folder / "run"


def command(folder, shards, trusted_csv, *more):
    words = ["fit", shards, "--meta", trusted_csv, "--run", folder / "run"]
    return ["--no-python", "--", "nccleaner", *words, "--config", folder / "config.json", *more]


# Canonical directions that correlate alike may change places, or turn: what they say of two rows is
# the same.
ROTATING = {
    *("canonical.of_images", "canonical.of_texts"),
    *("frozen.canonical_of_images", "frozen.canonical_of_texts"),
    *("contrast.images", "contrast.texts"),
}


def assert_same_networks(run, expected):
    for name in ("best", "last"):
        path = f"checkpoints/{name}.safetensors"
        found, wanted = load_file(run / path), load_file(expected / path)
        assert found.keys() == wanted.keys()
        for tensor in wanted:
            one, other = found[tensor], wanted[tensor]
            # Where the hardware has bfloat16, layers round to it in scoring: weights that differ a
            # little take some embeddings of the alternatives to the next number.
            tolerance = 4e-3 if tensor.startswith("contrast.") else 1e-4
            if tensor in ROTATING:
                one, other = one @ one.mT, other @ other.mT
            torch.testing.assert_close(one, other, rtol=1e-4, atol=tolerance, msg=tensor)


def assert_same_scores(run, expected):
    paths = sorted((expected / "scores").glob("*.parquet"))
    assert len(paths) == 2
    for path in paths:
        found, wanted = pq.read_table(run / "scores" / path.name), pq.read_table(path)
        for name in ("similarity", "corrected_similarity", "clean_probability"):
            np.testing.assert_allclose(
                found[name].to_numpy(), wanted[name].to_numpy(), rtol=0, atol=1e-3
            )


def test_two_processes_fit_what_one_fits(alone, shards, trusted_csv, tmp_path):
    run, result = alone
    other = start_beside(tmp_path, run)
    said = spread.torchrun(*command(tmp_path, shards, trusted_csv, "--json"))

    (line,) = said.stdout.splitlines()  # one of them speaks
    found = json.loads(line)
    assert found["pool"] == result.pool
    assert found["best_epoch"] == result.best_epoch
    for name in ("held_out_auroc", "probe_auroc", "noise_rate"):
        assert found[name] == pytest.approx(getattr(result, name), abs=1e-4)
    assert said.stderr.count("Epoch ") == EPOCHS
    assert "Process" not in said.stderr
    assert_same_networks(other, run)
    assert not (other / "training").exists()
    nccleaner.score(other)
    assert_same_scores(other, run)


def rank_of(process):
    """Which process of a training a child of torchrun is; None for any other."""
    try:
        environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    ranks = [entry[5:] for entry in environment if entry.startswith(b"RANK=")]
    return int(ranks[0]) if ranks else None


def children_of(process):
    return [
        int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()
    ]


def test_a_killed_process_ends_all_and_one_alone_goes_on(alone, shards, trusted_csv, tmp_path):
    run = start_beside(tmp_path, alone[0])
    words = command(tmp_path, shards, trusted_csv, "--quiet")
    with subprocess.Popen(
        spread.torchrun_command(*words), env=spread.environment(), stderr=subprocess.PIPE, text=True
    ) as torchrun:
        end = time.monotonic() + 150
        while not (run / "checkpoints" / "state.pt").exists():
            assert time.monotonic() < end
            assert torchrun.poll() is None
            time.sleep(0.02)
        (second,) = [child for child in children_of(torchrun.pid) if rank_of(child) == 1]
        os.kill(second, signal.SIGKILL)
        _, said = torchrun.communicate(timeout=60)
    assert torchrun.returncode == 1
    assert "Signal 9 (SIGKILL)" in said
    assert not (run / "run.json").exists()

    notes = Notes()
    result = nccleaner.fit(shards, meta=trusted_csv, run=run, config=CONFIG, reporter=notes)

    assert any("goes on after epoch" in note for note in notes.told)
    assert result.best_epoch == alone[1].best_epoch
    assert_same_networks(run, alone[0])


class Notes(SilentReporter):
    """Keeps what is told."""

    def __init__(self):
        self.told = []

    def note(self, text):
        self.told.append(text)


def test_wrong_input_is_told_once_and_ends_all(shards, tmp_path):
    (tmp_path / "config.json").write_text(CONFIG.model_dump_json())
    said = spread.torchrun(*command(tmp_path, shards, tmp_path / "none.csv"), check=False)
    assert said.returncode == 1
    assert said.stderr.count("none.csv is not there") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"train": {"caption_reconstruction": 1.0}}, "Reconstruction"),
        ({"train": {"image_reconstruction": 0.5}}, "Reconstruction"),
        ({"encoders": {"text": "gru"}, "model": {"gru_layers": 2}}, "Dropout between the 2 layers"),
    ],
)
def test_what_one_process_only_can_train_is_refused(settings, what):
    with pytest.raises(UsageError, match=what) as caught:
        refuse_to_divide(RunConfig.model_validate(settings))
    assert "--set" in caught.value.next_step


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"encoders": {"text": "gru"}},
        {"encoders": {"text": "gru"}, "model": {"gru_layers": 4, "dropout": 0.0}},
    ],
)
def test_all_else_is_not(settings):
    refuse_to_divide(RunConfig.model_validate(settings))
