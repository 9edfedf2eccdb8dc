"""Files of weights in; tensors and fingerprints out. Nothing is unpickled but tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from nccleaner.errors import InputError


def load_state(path: Path) -> dict[str, torch.Tensor]:
    """Reads a state dictionary from `.safetensors`, or from a file of `torch.save`.

    Raises:
        InputError: The file is missing, damaged, or holds something else.
    """
    from safetensors.torch import load_file

    if not path.is_file():
        raise InputError(f"{path}: no such file of weights.", "Check the path.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    # On a damaged file the loaders raise whatever they stumble over.
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{path}: the weights cannot be read: {type(error).__name__}: {reason}.",
            "Give a .safetensors file, or a .pth file that holds nothing but a state dictionary.",
        ) from error
    if not isinstance(state, Mapping) or not all(map(torch.is_tensor, state.values())):
        raise InputError(
            f"{path}: expected a dictionary of tensors, got a {type(state).__name__}.",
            "Save `model.state_dict()` itself.",
        )
    return dict(state)


def digest_state(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of names, types, shapes and values: the same for the same weights in any file."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def digest_files(paths: Iterable[Path], root: Path) -> str:
    """SHA-256 of the files' paths below `root` and their contents."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.relative_to(root).as_posix()} {digest_file(path)}\n".encode())
    return digest.hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path, expected: str) -> None:
    """Refuses a file that is not the known one.

    Raises:
        InputError: It is missing or its content is another.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing from its package.", "Install the package again.")
    if (found := digest_file(path)) != expected:
        raise InputError(
            f"{path}: the SHA-256 is {found}, expected {expected}.",
            "The package holds other weights than those that are known: install it again.",
        )
