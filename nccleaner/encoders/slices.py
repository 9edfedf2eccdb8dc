"""A batch on a CPU, divided among threads that each take some of its images at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

# In one slice: fewer take more time each, more take more memory and leave threads without work.
_LEAST, _MOST = 8, 16


def encode_in_slices(network: nn.Module, inputs: Tensor) -> Tensor:
    """Encodes a batch by as many threads as PyTorch would use.

    PyTorch divides every operator among threads that wait for each other at its end, awake unless
    `OMP_WAIT_POLICY` was `PASSIVE` when it was loaded. Beside processes that want the same cores
    that takes up to twice the time of the work. These threads meet once a batch. Convolutional
    networks give bitwise the same features however a batch is divided.

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

    size = max(_LEAST, min(_MOST, -(-len(inputs) // threads)))
    slices = torch.split(inputs, size)
    if threads == 1 or len(slices) == 1:
        return torch.cat([encode(part) for part in slices])
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return torch.cat(list(pool.map(encode, slices)))
    finally:
        torch.set_num_threads(threads)  # what a thread sets holds for all that are yet to come
