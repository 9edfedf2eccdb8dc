"""The state file: what comes back, what is refused."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch

from nccleaner.errors import RunError
from nccleaner.train.state import random_state, read_state, set_random_state, write_state

STATE = {
    "epoch": 3,
    "log": "é\n",
    "weights": [torch.linspace(0, 1, 5000), torch.tensor(2.0, dtype=torch.float64)],
    "optimiser": {
        "state": {0: {"step": torch.tensor(4.0)}},
        "groups": [{"lr": 0.1, "amsgrad": None}],
    },
}


@pytest.fixture
def path(tmp_path):
    write_state(STATE, tmp_path / "checkpoints" / "state.pt")
    return tmp_path / "checkpoints" / "state.pt"


def test_a_state_comes_back_as_it_was(path):
    found = read_state(path)
    assert all(map(torch.equal, found["weights"], STATE["weights"]))
    assert found["weights"][1].dtype == torch.float64
    assert found["optimiser"] == STATE["optimiser"]
    assert (found["epoch"], found["log"]) == (3, "é\n")
    assert [file.name for file in path.parent.iterdir()] == ["state.pt"]


DAMAGES = {
    "empty": lambda content: b"",
    "no archive": lambda content: b"state" * 1000,
    "cut": lambda content: content[: len(content) // 2],
    "one bit of a weight": lambda content: flip(content, STATE["weights"][0][2000:2010]),
}


def flip(content: bytes, values: torch.Tensor) -> bytes:
    """Flips the lowest bit of the first of some values that are in a file."""
    found = content.index(values.numpy().tobytes())
    return content[:found] + bytes([content[found] ^ 1]) + content[found + 1 :]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_state_is_refused(path, damage):
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RunError, match="damaged") as caught:
        read_state(path)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message


class Harmful:
    """Runs a command when it is unpickled."""

    def __init__(self, told: Path) -> None:
        self.told = told

    def __reduce__(self):
        return subprocess.check_call, (["touch", os.fspath(self.told)],)


def test_a_state_with_code_in_it_is_refused_and_not_run(tmp_path):
    torch.save({"epoch": Harmful(tmp_path / "told")}, tmp_path / "state.pt")
    with pytest.raises(RunError, match="damaged"):
        read_state(tmp_path / "state.pt")
    assert not (tmp_path / "told").exists()


def test_random_numbers_go_on_where_they_were():
    cpu = torch.device("cpu")
    torch.manual_seed(3)
    torch.rand(7)
    state = random_state(cpu)
    expected = torch.rand(5)
    torch.manual_seed(4)
    set_random_state(state, cpu)
    assert torch.equal(torch.rand(5), expected)
