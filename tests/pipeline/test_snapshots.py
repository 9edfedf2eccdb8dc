"""Training that goes on from what it left: on tables made by hand, without encoders."""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from handmade import CONFIG, EPOCHS, STEPS, TABLES, Listener, Stopped, make_tables, small, train
from safetensors.torch import load_file

from nccleaner.pipeline.pool import Targets
from nccleaner.pipeline.snapshots import training_fingerprint
from nccleaner.pipeline.workspace import Workspace


def content(run: Path) -> dict[str, bytes]:
    files = [run / "metrics.jsonl"]
    files += [run / "checkpoints" / name for name in ("best.safetensors", "last.safetensors")]
    return {file.name: file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run that was not interrupted leaves."""
    run = tmp_path_factory.mktemp("whole")
    train(run, Listener())
    return run


def test_a_run_interrupted_again_and_again_ends_like_one_that_was_not(whole, tmp_path):
    starts = []
    for stop_after in (STEPS // 2, STEPS + 1, 2 * STEPS + 7, 0):
        listener = Listener(stop_after)
        with pytest.raises(Stopped):
            train(tmp_path, listener)
        starts.append([count for count in listener.steps if count > 1])
    listener = Listener()
    train(tmp_path, listener)

    # Epochs 1, then 2 and 3, are whole before the interruptions that follow them.
    assert starts == [[], [], [STEPS], [3 * STEPS]]
    assert listener.steps == [3 * STEPS] + [1] * STEPS
    assert listener.notes[1] == "Training goes on after epoch 3 of 4, where it was interrupted."
    assert content(tmp_path) == content(whole)


def test_a_process_that_is_killed_at_random_moments_ends_like_one_that_is_not(tmp_path):
    config = small(train={"epochs": 12})
    whole, run = tmp_path / "whole", tmp_path / "killed"
    train(whole, Listener(), config=config)
    # Processes that are forked from one that has imported everything start in no time.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["nccleaner.pipeline.fitting", "sklearn.metrics"])
    state, moments = Workspace(run).state, random.Random(0)

    def kill_one() -> int | None:
        before = state.stat().st_mtime_ns if state.exists() else 0
        process = context.Process(target=train, args=(run, None, TABLES, config))
        process.start()
        while not state.exists() or state.stat().st_mtime_ns == before:
            assert process.is_alive()
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        process.join()
        return process.exitcode

    assert [kill_one() for _ in range(3)] == [-signal.SIGKILL] * 3
    listener = Listener()
    train(run, listener, config=config)

    assert 3 * STEPS <= listener.steps[0] <= 12 * STEPS
    assert content(run) == content(whole)
    assert not list(run.rglob(".nccleaner-*"))


@pytest.mark.parametrize("name", ["network_tensors", "write_state"])
def test_a_run_that_dies_between_two_files_ends_like_one_that_did_not(
    whole, tmp_path, monkeypatch, name
):
    def die(*_arguments: object) -> None:
        raise Stopped

    with monkeypatch.context() as patch:
        with pytest.raises(Stopped):
            train(tmp_path, Listener(2 * STEPS))
        patch.setattr(f"nccleaner.pipeline.snapshots.{name}", die)
        with pytest.raises(Stopped):
            train(tmp_path, Listener())
    assert (tmp_path / "metrics.jsonl").read_text().count('"kind": "epoch"') == 3
    left = tmp_path / "checkpoints" / ".nccleaner-tmp-01234567-state.pt"
    left.write_bytes(b"half of a state")

    train(tmp_path, Listener())

    assert content(tmp_path) == content(whole)
    assert not left.exists()


def test_what_is_finished_is_not_trained_again(whole, tmp_path):
    first = train(tmp_path, Listener())
    listener = Listener()
    again = train(tmp_path, listener)
    assert listener.steps == [EPOCHS * STEPS]
    assert listener.notes[1].startswith("The networks are trained")
    np.testing.assert_array_equal(again.belief, first.belief)
    assert replace(again, scorer=first.scorer, belief=first.belief) == first
    assert content(tmp_path) == content(whole)


def test_a_damaged_state_is_reported_and_training_starts_anew(whole, tmp_path):
    state = Workspace(tmp_path).state
    state.parent.mkdir()
    state.write_bytes(Workspace(whole).state.read_bytes()[:-100])
    listener = Listener()
    train(tmp_path, listener)
    (warning,) = listener.warnings
    assert warning.startswith("Training starts anew")
    assert str(state) in warning
    assert listener.steps == [1] * EPOCHS * STEPS
    assert content(tmp_path) == content(whole)


def test_the_state_of_other_settings_is_not_used(whole, tmp_path):
    state = Workspace(tmp_path).state
    state.parent.mkdir()
    state.write_bytes(Workspace(whole).state.read_bytes())
    listener = Listener()
    train(tmp_path, listener, config=CONFIG.model_copy(update={"seed": 1}))
    assert listener.notes[0].startswith("Training starts anew")
    assert listener.steps == [1] * EPOCHS * STEPS
    assert not listener.warnings
    assert content(tmp_path)["best.safetensors"] != content(whole)["best.safetensors"]


def moved(pairs):
    return replace(pairs, text_rows=pairs.text_rows.roll(1))


def with_one_feature_changed():
    images = TABLES.features.images.clone()
    images[-1, -1] += 0.01
    return replace(TABLES, features=TABLES.features._replace(images=images))


@pytest.mark.parametrize(
    "other",
    [
        with_one_feature_changed(),
        replace(TABLES, pool=moved(TABLES.pool)),
        replace(TABLES, identities=TABLES.identities + 1),
        replace(TABLES, probe_matched=~TABLES.probe_matched),
        replace(TABLES, meta=TABLES.meta._replace(matched=moved(TABLES.meta.matched))),
        replace(TABLES, held_out=TABLES.held_out._replace(mismatched=TABLES.pool)),
        replace(TABLES, tokenizer="{}"),
        replace(TABLES, targets=Targets(torch.zeros(2, 64, 64, 3, dtype=torch.uint8), None)),
    ],
)
def test_the_fingerprint_knows_every_table(other):
    assert training_fingerprint(other, CONFIG, "cpu") != training_fingerprint(TABLES, CONFIG, "cpu")


def test_the_fingerprint_knows_settings_and_device_and_not_where_data_came_from():
    known = training_fingerprint(TABLES, CONFIG, "cpu")
    assert training_fingerprint(make_tables(), CONFIG, "cpu") == known
    assert training_fingerprint(TABLES, CONFIG, "cuda:1") != known
    for section, value in (
        ("train", CONFIG.train.model_copy(update={"margin": 0.3})),
        ("purify", CONFIG.purify.model_copy(update={"shrinkage": 2.0})),
        ("model", CONFIG.model.model_copy(update={"dropout": 0.1})),
        ("seed", 1),
    ):
        other = CONFIG.model_copy(update={section: value})
        assert training_fingerprint(TABLES, other, "cpu") != known
    workers = CONFIG.data.model_copy(update={"workers": 3})
    assert training_fingerprint(TABLES, CONFIG.model_copy(update={"data": workers}), "cpu") == known


def test_the_metrics_hold_steps_and_epochs(whole):
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert len(steps) + len(epochs) == len(lines)
    for network in (0, 1):
        own = [step["step"] for step in steps if step["network"] == network]
        assert own == list(range(4, EPOCHS * STEPS // 2 + 1, 4))
    assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3, 4]
    assert all(0 < step["main_rate"] <= CONFIG.train.learning_rate for step in steps)


def test_the_last_networks_are_kept_beside_the_best(whole):
    last = load_file(whole / "checkpoints" / "last.safetensors")
    best = load_file(whole / "checkpoints" / "best.safetensors")
    assert {name for name in best if name.startswith(("main_net.", "meta_net."))} == set(last)
    epochs = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    selections = [line["selection"] for line in epochs if line["kind"] == "epoch"]
    same = all(torch.equal(last[name], best[name]) for name in last)
    assert same == (selections.index(max(selections)) == EPOCHS - 1)
