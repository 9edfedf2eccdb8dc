"""The configured encoders, loaded once and only when something must be encoded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from nccleaner.config import DataConfig, EncodersConfig
from nccleaner.data.features import ImageEncoder, TextEncoder
from nccleaner.errors import RunError, UsageError
from nccleaner.records import Limits

GRU = "gru"


@dataclass
class Backbones:
    """The frozen encoders of a run.

    Attributes:
        config: Which, and where they run.
    """

    config: EncodersConfig

    @cached_property
    def device(self) -> str:
        """The device that `auto` stands for, or the one that was named."""
        return resolve_device(self.config.device)

    @cached_property
    def image(self) -> ImageEncoder:
        """The image encoder."""
        from nccleaner.encoders.allocator import keep_freed_memory
        from nccleaner.encoders.images import load_image_encoder

        keep_freed_memory()
        return load_image_encoder(
            self.config.image, weights=self.config.image_weights, device=self.device
        )

    @cached_property
    def text(self) -> TextEncoder | None:
        """The text encoder; None where captions are read by a GRU that is trained."""
        if self.config.text == GRU:
            return None
        from nccleaner.encoders.sentences import load_text_encoder

        return load_text_encoder(self.config.text, device=self.device)

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


def limits_of(config: DataConfig) -> Limits:
    """Returns what one sample may cost."""
    return Limits(
        max_image_pixels=config.max_image_pixels,
        max_caption_chars=config.max_caption_chars,
        decode_timeout_s=config.decode_timeout_s,
        max_member_bytes=config.max_member_bytes,
    )
