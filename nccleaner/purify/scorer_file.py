"""What a scorer's file says of itself: read without its networks, and without torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from nccleaner.errors import RunError
from nccleaner.purify.judge import Judges

# Changes with what is in the file, so that another version says so.
LAYOUT = 10


def read_description(path: Path) -> dict[str, Any]:
    """Reads the JSON beside the tensors.

    Raises:
        RunError: The file is missing, damaged, or of another version.
    """
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        raise RunError(f"{path} is not there.", "Run `nccleaner fit` first.")
    try:
        with safe_open(path, framework="np") as file:
            description: dict[str, Any] = json.loads((file.metadata() or {})["nccleaner"])
        layout = description["layout"]
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise damaged(path, error) from error
    if layout != LAYOUT:
        raise RunError(
            f"{path} is of layout {layout}, expected {LAYOUT}.",
            "Run `nccleaner fit` again with this version.",
        )
    return description


def read_judges(path: Path) -> Judges:
    """Reads the judges alone.

    Raises:
        RunError: The file is missing, damaged, or of another version.
    """
    description = read_description(path)
    try:
        return Judges.from_json(description["judges"])
    except (ValueError, LookupError, TypeError) as error:
        raise damaged(path, error) from error


def scorer_identity(path: Path) -> str:
    """Returns the SHA-256 of a scorer's file: scores say by it which scorer made them."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damaged(path: Path, error: Exception) -> RunError:
    """Returns the error that says that a scorer's file cannot be used."""
    cause = " ".join(str(error).split())
    return RunError(f"{path} is damaged: {cause}", "Run `nccleaner fit` again.")
