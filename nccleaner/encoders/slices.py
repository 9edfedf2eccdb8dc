"""A batch on a CPU, divided among threads that each take some of its images at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

# In one slice: fewer take more time each, more leave threads without work. On some CPUs the last
# bits of features depend on it and on the threads of a slice, so neither changes with their number.
_SLICE = 8


def encode_in_slices(network: nn.Module, inputs: Tensor) -> Tensor:
    """Encodes a batch by as many threads as PyTorch would use, one a slice at the most.

    PyTorch divides every operator among threads that wait for each other at its end, awake unless
    `OMP_WAIT_POLICY` was `PASSIVE` when it was loaded. Beside processes that want the same cores
    that takes up to twice the time of the work. These threads meet once a batch, and convolutional
    networks give bitwise the same features whatever their number.

    Args:
        network: [b, ...] → [b, f], row by row, without gradients.
        inputs: [n, ...], on the CPU.

    Returns:
        Features [n, f].
    """
    threads = torch.get_num_threads()

    @torch.inference_mode()
    def encode(part: Tensor) -> Tensor:
        features: Tensor = network(part)
        return features

    slices = torch.split(inputs, _SLICE)
    if threads == 1:
        return torch.cat([encode(part) for part in slices])
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return torch.cat(list(pool.map(encode, slices)))
    finally:
        torch.set_num_threads(threads)  # what a thread sets holds for all that are yet to come
