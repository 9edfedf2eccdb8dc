"""The state of a training as a file: what it needs to go on as if it had never stopped.

Tensors, numbers and text in dictionaries and lists; nothing in the file executes when it is read.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nccleaner.errors import RunError
from nccleaner.files import replace_file


def write_state(state: Mapping[str, Any], path: Path) -> None:
    """Writes a state, whole or not at all."""
    with replace_file(path) as temporary:
        torch.save(dict(state), temporary)


def read_state(path: Path) -> dict[str, Any]:
    """Reads a state; its tensors are on the CPU.

    Raises:
        RunError: The file is missing, damaged, or holds more than plain data.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch writes the checksums and never reads them
            damaged = archive.testzip()
        if damaged is None:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return state
    except (OSError, zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise _damaged(path, str(error).partition("\n")[0]) from error
    raise _damaged(path, f"the checksum of {damaged} is wrong")


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Returns the state of torch's generators that training on a device draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Sets torch's generators to what `random_state` gave."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def _damaged(path: Path, cause: str) -> RunError:
    return RunError(f"{path} is damaged: {cause}.", "Remove it; `nccleaner fit` trains anew.")
