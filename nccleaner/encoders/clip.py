"""CLIP-like models by open_clip: an image and a text encoder, two towers of one model.

open_clip:ViT-B-32/laion2b_s34b_b79k    a tag that open_clip knows; downloaded on first use
open_clip:ViT-B-32/runs/epoch_32.pt     a local file of weights for that model
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nccleaner.encoders.images import ImageNetwork, TorchImageEncoder
from nccleaner.encoders.precision import fast_dtype
from nccleaner.encoders.weights import digest_state
from nccleaner.errors import InputError, MissingDependencyError, UsageError
from nccleaner.records import ImageSpec

PREFIX = "open_clip:"

# Captions are padded to one length, so sorting them would gain nothing.
_BATCH = 64


class ClipTextEncoder:
    """The text tower of a CLIP-like model; see `load_clip`.

    Args:
        name: What people call it.
        model: Has `encode_text`; in evaluation mode.
        tokenize: Captions → token ids [b, t].
        digest: SHA-256 of its weights.
        width: Length of a feature.
        device: Where it runs.
        dtype: What it computes with.

    Attributes:
        name: As given.
        fingerprint: Changes with whatever changes the features.
        width: As given.
    """

    def __init__(
        self,
        *,
        name: str,
        model: Any,
        tokenize: Callable[[list[str]], Tensor],
        digest: str,
        width: int,
        device: str,
        dtype: torch.dtype,
    ) -> None:
        self.name = name
        self.fingerprint = f"{name} {dtype} {digest}"
        self.width = width
        self._model = model.to(device=device, dtype=dtype)
        self._tokenize = tokenize
        self._device = device

    @torch.inference_mode()
    def encode(self, captions: list[str]) -> npt.NDArray[np.float32]:
        """Encodes captions.

        Args:
            captions: b captions; of a long one, the tokens beyond the model's limit are not seen.

        Returns:
            Features [b, width], as long as the model makes them.
        """
        features = np.empty((len(captions), self.width), np.float32)
        for start in range(0, len(captions), _BATCH):
            tokens = self._tokenize(captions[start : start + _BATCH]).to(self._device)
            encoded = self._model.encode_text(tokens, normalize=False)
            features[start : start + _BATCH] = encoded.float().cpu().numpy()
        return features


class ClipTowers(NamedTuple):
    """Both encoders of a model, which they share."""

    image: TorchImageEncoder
    text: ClipTextEncoder


class _ImageTower(nn.Module):
    """[b, 3, h, w] → [b, width]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.model.encode_image(images, normalize=False)
        return features


def load_clip(name: str, *, device: str) -> ClipTowers:
    """Loads both towers of a model.

    Args:
        name: `open_clip:MODEL/WEIGHTS`. MODEL is one that open_clip knows (Ilharco et al. 2021),
            WEIGHTS a tag that it has for it, or a local file: `.safetensors`, a state dictionary,
            or a checkpoint of open_clip's own training. Images for a local file are prepared as for
            the first weights that open_clip publishes for that model, or else as for OpenAI's.
        device: For example `cpu` or `cuda`.

    Raises:
        MissingDependencyError: open_clip is not installed.
        UsageError: The name is not of that form, or open_clip knows no such model or weights.
        InputError: The weights cannot be fetched, are not those of this model, or hold more than
            tensors; or the model does not take squares.
    """
    try:
        import open_clip
    except ImportError as error:
        raise MissingDependencyError(
            f"The encoder {name} needs a package that is not installed: {error.name}.",
            "Install it: pip install 'nccleaner[clip]'",
        ) from error
    architecture, _, tag = name.removeprefix(PREFIX).partition("/")
    config = open_clip.get_model_config(architecture)
    if config is None or not tag:
        raise _unknown_model(name, architecture, open_clip.list_models())
    with _quiet():
        weights, published = _find_weights(name, architecture, tag)
        try:
            # What is drawn at random is replaced by the weights.
            with torch.random.fork_rng(devices=[]):
                model = open_clip.create_model(
                    architecture,
                    pretrained=str(weights),
                    force_quick_gelu=bool(published.get("quick_gelu")),
                    force_preprocess_cfg=published,
                    require_pretrained=True,
                    weights_only=True,
                )
            tokenize = open_clip.get_tokenizer(architecture)
        # On damaged or foreign files the loaders raise whatever they stumble over.
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{name}: the model cannot be loaded: {type(error).__name__}: {reason}.",
                "Give a .safetensors file, or a checkpoint of open_clip that holds tensors only, "
                "of the model that is named.",
            ) from error
    model.eval().requires_grad_(False)
    name = name if Path(tag) != weights else f"{PREFIX}{architecture}/{weights.name}"
    digest, dtype = digest_state(model.state_dict()), fast_dtype(device)
    preprocess = model.visual.preprocess_cfg
    mean, std = _of_bytes(preprocess["mean"]), _of_bytes(preprocess["std"])
    return ClipTowers(
        TorchImageEncoder(
            name=name,
            network=ImageNetwork(_ImageTower(model), mean=mean, std=std),
            digest=f"{mean} {std} {digest}",
            width=config["embed_dim"],
            spec=_spec(name, preprocess),
            device=device,
            dtype=dtype,
        ),
        ClipTextEncoder(
            name=name,
            model=model,
            tokenize=tokenize,
            digest=digest,
            width=config["embed_dim"],
            device=device,
            dtype=dtype,
        ),
    )


def _unknown_model(name: str, architecture: str, known: list[str]) -> UsageError:
    close = difflib.get_close_matches(architecture, known, n=3)
    guess = f"Did you mean {' or '.join(close)}? " if close and architecture not in close else ""
    return UsageError(
        f"{name}: expected {PREFIX}MODEL/WEIGHTS with a model that open_clip knows.",
        f"{guess}`open_clip.list_pretrained()` lists models and tags.",
    )


def _find_weights(name: str, architecture: str, tag: str) -> tuple[Path, dict[str, Any]]:
    """Returns a file of weights and what open_clip says of how they want their images."""
    import open_clip

    published = open_clip.get_pretrained_cfg(architecture, tag)
    if published:
        try:
            return Path(open_clip.download_pretrained(published)), published
        # Each of the hubs has errors of its own.
        except Exception as error:
            raise InputError(
                f"The weights of {name} cannot be downloaded: {type(error).__name__}: {error}.",
                "Download them where there is a network, and name the file: "
                f"{PREFIX}{architecture}/FILE.",
            ) from error
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if not Path(tag).is_file():
        raise UsageError(
            f"{name}: {tag} is neither a file nor a tag that open_clip has for {architecture}.",
            f"Its tags: {', '.join(tags) or 'none'}.",
        )
    like = dict(open_clip.get_pretrained_cfg(architecture, tags[0])) if tags else {}
    like.pop("quick_gelu", None)  # the activation of a local file is that of the model named
    return Path(tag), like


def _spec(name: str, preprocess: dict[str, Any]) -> ImageSpec:
    size, mode = preprocess["size"], preprocess["resize_mode"]
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    if height != width or mode not in {"shortest", "squash"}:
        raise InputError(
            f"{name} wants images of {height}x{width} pixels, resized by {mode!r}; expected a "
            "square, and 'shortest' or 'squash'.",
            "Choose another model.",
        )
    return ImageSpec(
        size_px=height,
        resize_px=height if mode == "shortest" else 0,
        interpolation="bilinear" if preprocess["interpolation"] == "bilinear" else "bicubic",
    )


def _of_bytes(shares: tuple[float, float, float]) -> tuple[float, float, float]:
    """Mean or deviation of channels of 0 to 255, from those of channels of 0 to 1."""
    red, green, blue = (255 * share for share in shares)
    return red, green, blue


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what the loaders log off the terminal, and their progress bars; then they may again."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    # With no handler at all, `logging.warning` would install one that writes to the terminal.
    silence, hub = logging.NullHandler(), logging.getLogger("huggingface_hub")
    level, were_disabled = hub.level, are_progress_bars_disabled()
    logging.getLogger().addHandler(silence)
    hub.setLevel(logging.CRITICAL)
    disable_progress_bars()
    try:
        yield
    finally:
        logging.getLogger().removeHandler(silence)
        hub.setLevel(level)
        if not were_disabled:
            enable_progress_bars()
