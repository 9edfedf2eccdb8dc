import json

import pytest

from nccleaner.errors import RunError
from nccleaner.pipeline.curves import read_curves


def write(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def epoch(number: int, **more: object) -> dict[str, object]:
    return {
        "kind": "epoch",
        "epoch": number,
        "main_loss": 3.0 / number,
        "meta_loss": 0.5,
        "reconstruction": {},
        "believed": 0.6,
        "selection": 0.8,
    } | more


def test_epochs_become_curves(tmp_path):
    step = {"kind": "step", "epoch": 1, "main_loss": 9.0}
    path = write(tmp_path / "metrics.jsonl", step, epoch(1), step, epoch(2))
    losses, shares = read_curves(path, best_epoch=2)
    assert losses.epochs == [1, 2]
    assert losses.best == 2
    assert {curve.name: curve.values for curve in losses.curves} == {
        "main network": [3.0, 1.5],
        "meta network": [0.5, 0.5],
    }
    assert [curve.values for curve in shares.curves] == [[0.8, 0.8], [0.6, 0.6]]
    assert shares.axis == "share"


def test_reconstruction_and_fine_tuning_have_charts_of_their_own(tmp_path):
    rebuilt = epoch(1, reconstruction={"caption_loss": 4.0})
    tuned = {"kind": "fine_tune", "epoch": 1, "main_loss": 1.0, "selection": 0.9}
    charts = read_curves(write(tmp_path / "m", rebuilt, tuned), best_epoch=2)
    assert [chart.title for chart in charts] == [
        "Losses",
        "Quality and belief",
        "Losses of the reconstruction",
        "Loss while fine-tuning",
        "Quality while fine-tuning",
    ]
    assert [curve.name for curve in charts[2].curves] == ["captions"]
    assert charts[3].epochs == [2], "epochs of fine-tuning count on"


def test_no_metrics_no_curves(tmp_path):
    assert read_curves(tmp_path / "metrics.jsonl", best_epoch=1) == []
    assert read_curves(write(tmp_path / "m", {"kind": "step"}), best_epoch=1) == []


@pytest.mark.parametrize("text", ["{", '{"kind": "epoch", "epoch": 1}', "[]", '"a"'])
def test_damage_is_named(tmp_path, text):
    path = tmp_path / "metrics.jsonl"
    path.write_text(text)
    with pytest.raises(RunError, match=r"metrics\.jsonl is damaged"):
        read_curves(path, best_epoch=1)
