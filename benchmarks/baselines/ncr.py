"""Two networks that divide the pool for each other by a mixture over losses.

NCR (Huang et al., NeurIPS 2021): after a warm-up, each network's losses on the pool are fitted by
two Gaussians, and the posterior of the lower one tells the other network how clean a pair is. No
pair is trusted. Ours [O], to make the baseline strong: InfoNCE in place of the hinge with the
hardest negative, and the posterior as a weight in place of two halves with rectified labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.dual_encoder import Semantic, Training, info_nce, training_numbers
from baselines.mixture import clean_posterior
from baselines.pool import Pool
from nccleaner.config import RunConfig


def train_divided(
    pool: Pool, config: RunConfig, *, seed: int
) -> tuple[Sequence[Training], npt.NDArray[np.float64]]:
    """Trains both networks.

    Args:
        pool: What they are trained on.
        config: The settings that nccleaner itself is fitted with.
        seed: Of everything that is drawn.

    Returns:
        The networks, and the clean probability of each pair, [n]: the mean of both posteriors.
    """
    networks = [
        Training(pool, config, loss=info_nce, head=Semantic, seed=2 * seed + index)
        for index in range(2)
    ]
    device = pool.features.images.device
    posteriors = [np.ones(len(pool.pairs)) for _ in networks]
    with training_numbers(seed):
        for epoch in range(1, networks[0].epochs + 1):
            for index, network in enumerate(networks):
                weights = torch.from_numpy(posteriors[1 - index]).float().to(device)
                network.run_epoch(weights)
            if epoch >= networks[0].warm_up_epochs:
                posteriors = [
                    clean_posterior(-losses(network, pool).cpu().numpy()) for network in networks
                ]
    return networks, np.mean(posteriors, axis=0)


def losses(network: Training, pool: Pool) -> Tensor:
    """Returns the InfoNCE loss of each pair of the pool, [n], each among a batch of others."""
    found = torch.empty(len(pool.pairs), device=pool.features.images.device)
    for chosen in network.batches():
        batch = network.look(pool.pairs.take(chosen))
        logits = (batch.cosines * batch.inverse_temperature).masked_fill(batch.excluded, -torch.inf)
        target = torch.arange(len(chosen), device=logits.device)
        both = (F.cross_entropy(each, target, reduction="none") for each in (logits, logits.T))
        found[chosen] = sum(both, torch.zeros_like(found[chosen]))
    return found
