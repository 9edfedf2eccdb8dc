"""The configured encoders, loaded once and only when something must be encoded."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from nccleaner.config import DataConfig, EncodersConfig
from nccleaner.data.extracting import ImageEncoder, TextEncoder
from nccleaner.errors import RunError, UsageError
from nccleaner.records import Limits

if TYPE_CHECKING:
    from nccleaner.encoders.clip import ClipTowers
    from nccleaner.encoders.images import ImageNetwork

GRU = "gru"


@dataclass
class Backbones:
    """The frozen encoders of a run.

    Attributes:
        config: Which, and where they run.
        fine_tuned: What the image encoder was fine-tuned to; None where it is frozen.
    """

    config: EncodersConfig
    fine_tuned: Path | None = None
    _towers: dict[str, ClipTowers] = field(default_factory=dict, init=False, repr=False)

    def __reduce__(self) -> tuple[type[Backbones], tuple[object, ...]]:
        """Goes to another process as what it is to load there."""
        return Backbones, (self.config, self.fine_tuned and self.fine_tuned.absolute())

    @cached_property
    def device(self) -> str:
        """The device that `auto` stands for, or the one that was named."""
        return resolve_device(self.config.device)

    @cached_property
    def image(self) -> ImageEncoder:
        """The image encoder."""
        from nccleaner.allocator import keep_freed_memory
        from nccleaner.encoders.finetuned import load_fine_tuned
        from nccleaner.encoders.images import load_image_encoder

        keep_freed_memory()
        name, weights = self.config.image, self.config.image_weights
        towers = self._clip(name)
        if self.fine_tuned is not None:
            return load_fine_tuned(self.fine_tuned, name=name, weights=weights, device=self.device)
        if towers is None:
            return load_image_encoder(name, weights=weights, device=self.device)
        if weights is not None:
            raise UsageError(
                f"{name} names its weights, and so does encoders.image_weights: {weights}.",
                "Give one of the two.",
            )
        return towers.image

    def image_network(self) -> ImageNetwork:
        """Loads the network of the image encoder, to be trained.

        Raises:
            UsageError: It is a tower of open_clip.
        """
        from nccleaner.encoders.images import load_image_network

        if self._clip(self.config.image) is not None:
            raise UsageError(
                f"{self.config.image} cannot be fine-tuned here; its towers stay frozen.",
                "Set train.fine_tune_epochs to 0, or choose another image encoder.",
            )
        return load_image_network(self.config.image, weights=self.config.image_weights).network

    @cached_property
    def text(self) -> TextEncoder | None:
        """The text encoder; None where captions are read by a GRU that is trained."""
        if self.config.text == GRU:
            return None
        from nccleaner.encoders.sentences import load_text_encoder

        towers = self._clip(self.config.text)
        return towers.text if towers else load_text_encoder(self.config.text, device=self.device)

    def _clip(self, name: str) -> ClipTowers | None:
        """Loads a model of open_clip once, for both of its towers; None for other encoders."""
        from nccleaner.encoders.clip import PREFIX, load_clip

        if name.startswith(PREFIX) and name not in self._towers:
            self._towers[name] = load_clip(name, device=self.device)
        return self._towers.get(name)

    def check(self, image_fingerprint: str, text_fingerprint: str | None) -> None:
        """Refuses encoders that are not those of the run.

        Raises:
            RunError: A package or a file of weights has changed since `fit`.
        """
        text = self.text.fingerprint if self.text else None
        if (self.image.fingerprint, text) != (image_fingerprint, text_fingerprint):
            raise RunError(
                "The encoders are not those that the run was fitted with: their weights or the "
                "type of numbers they compute with have changed.",
                "Restore them, or run `nccleaner fit` again.",
            )


def resolve_device(name: str) -> str:
    """Turns `auto` into the best device there is.

    Raises:
        UsageError: The device named is not there.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"{name!r} is no device.", "Name cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"There is no {name}: {torch.cuda.device_count()} CUDA devices are usable.",
            "Use --device cpu, or install a torch build for this GPU.",
        )
    return name


def decoders_of(config: DataConfig) -> int:
    """Returns how many processes decode; by default one for each core that this one may use."""
    from loky import cpu_count

    return config.workers if config.workers >= 0 else cpu_count()


def limits_of(config: DataConfig) -> Limits:
    """Returns what one sample may cost."""
    return Limits(
        max_image_pixels=config.max_image_pixels,
        max_caption_chars=config.max_caption_chars,
        decode_timeout_s=config.decode_timeout_s,
        max_member_bytes=config.max_member_bytes,
    )
