"""Every switch of the configuration changes what it says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from handmade import EPOCHS, TABLES, Listener, small, train
from safetensors.torch import load_file

from nccleaner.pipeline.training import training_precision
from nccleaner.train.pairs import Pairs, TrustedPairs


def lines_of(run: Path, kind: str) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / "last.safetensors")


@pytest.fixture(scope="module")
def default(tmp_path_factory):
    run = tmp_path_factory.mktemp("default")
    train(run, Listener(), config=small())
    return run


@pytest.mark.parametrize(("precision", "rounds"), [("auto", True), ("float32", False)])
def test_layers_of_cudnn_repeat_and_are_as_precise_as_was_asked(tmp_path, precision, rounds):
    seen, cudnn = set(), torch.backends.cudnn

    class Watching(Listener):
        def _advance(self, count):
            seen.add((cudnn.enabled, cudnn.deterministic, cudnn.allow_tf32))

    before = (cudnn.enabled, cudnn.deterministic, cudnn.allow_tf32)
    train(tmp_path, Watching(), config=small(train={"precision": precision}))
    assert seen == {(before[0], True, rounds)}
    assert (cudnn.enabled, cudnn.deterministic, cudnn.allow_tf32) == before


@pytest.mark.parametrize("min_steps", [0, 10_000])
def test_more_epochs_than_were_asked_for_are_explained(tmp_path, min_steps):
    class Hasty(Listener):
        def _advance(self, count):
            raise KeyboardInterrupt

    listener = Hasty()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, listener, config=small(train={"epochs": 3, "min_steps": min_steps}))
    explained = [note for note in listener.notes if "instead of 3: train.min_steps" in note]
    assert len(explained) == (min_steps > 0)


@pytest.mark.parametrize("right", [True, False])
def test_a_first_belief_that_rests_on_the_trusted_pairs_alone_says_so(tmp_path, right):
    class Hasty(Listener):
        def _advance(self, count):
            raise KeyboardInterrupt

    matched, mismatched = TABLES.meta
    texts = matched.text_rows if right else matched.text_rows.roll(1)
    meta = TrustedPairs(Pairs(matched.image_rows, texts), mismatched)
    listener = Hasty()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, listener, tables=replace(TABLES, meta=meta))

    told = next(note for note in listener.notes if note.startswith("Before training"))
    assert ("by the trusted pairs alone, as " in told) == (not right)


def test_one_network_is_trained_and_scores(tmp_path):
    fitted = train(tmp_path, Listener(), config=small(train={"networks": 1}))
    assert {name.split(".")[1] for name in weights_of(tmp_path)} == {"0"}
    assert {step["network"] for step in lines_of(tmp_path, "step")} == {0}
    assert len(fitted.scorer.networks) == 1
    assert fitted.probe_auroc > 0.8


def test_full_belief_believes_every_pair_throughout(tmp_path, default):
    train(tmp_path, Listener(), config=small(purify={"belief": "full"}))
    assert [epoch["believed"] for epoch in lines_of(tmp_path, "epoch")] == [1.0] * EPOCHS
    assert all(0.3 < epoch["believed"] < 0.9 for epoch in lines_of(default, "epoch"))


def test_trusted_pairs_decide_only_after_warm_up(tmp_path, default):
    train(tmp_path, Listener(), config=small(purify={"belief": "trusted"}))
    believed = [epoch["believed"] for epoch in lines_of(tmp_path, "epoch")]
    assert believed[0] == 1.0  # the report tells of the epoch that follows; two of four warm up
    assert all(value < 1 for value in believed[1:])
    assert believed[1:] != [epoch["believed"] for epoch in lines_of(default, "epoch")][1:]


def test_the_step_schedule_falls_at_its_share(tmp_path, default):
    config = small(train={"schedule": "step", "fall_at": 0.5, "warm_up_steps": 0})
    train(tmp_path, Listener(), config=config)
    rates = {step["step"]: step["main_rate"] for step in lines_of(tmp_path, "step")}
    peak = config.train.learning_rate
    # 6 steps an epoch and network, 24 in all.
    expected = {4: peak, 8: peak, 12: peak, 16: peak / 10, 20: peak / 10, 24: peak / 10}
    assert rates == pytest.approx(expected)
    smooth = [step["main_rate"] for step in lines_of(default, "step")]
    assert len(set(smooth)) == len(rates)


@pytest.mark.parametrize(
    "switch",
    [
        {"hard_mismatched": False},
        {"adaptive_margin": False},
        {"precision": "bf16"},
        {"meta_gradient": "none"},
    ],
    ids=str,
)
def test_a_switch_changes_what_is_learned(tmp_path, default, switch):
    train(tmp_path, Listener(), config=small(train=switch))
    ours, others = weights_of(tmp_path), weights_of(default)
    assert any(not torch.equal(ours[name], others[name]) for name in ours)
    first, usual = lines_of(tmp_path, "epoch")[0], lines_of(default, "epoch")[0]
    assert (first["main_loss"] == usual["main_loss"]) == ("adaptive_margin" in switch)


def test_auto_is_float32_on_a_cpu():
    cpu = torch.device("cpu")
    assert training_precision(small(), cpu) == "float32"
    assert training_precision(small(train={"precision": "bf16"}), cpu) == "bf16"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_auto_is_bf16_where_the_gpu_has_it():
    found = training_precision(small(), torch.device("cuda"))
    assert (found == "bf16") == torch.cuda.is_bf16_supported(including_emulation=False)


@pytest.mark.parametrize("belief", ["frozen", "trusted"])
def test_mismatched_pairs_are_found(tmp_path, belief):
    fitted = train(tmp_path, Listener(), TABLES, small(purify={"belief": belief}))
    assert fitted.probe_auroc > 0.9
    assert fitted.noise_rate == pytest.approx(0.4, abs=0.12)
