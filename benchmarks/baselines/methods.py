"""All baselines by name: a pool in, a verdict on each of its pairs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from baselines.dual_encoder import (
    Batch,
    Semantic,
    Training,
    hardest_negative,
    info_nce,
    training_numbers,
)
from baselines.lemon import lemon_scores
from baselines.mixture import clean_posterior
from baselines.ncr import train_divided
from baselines.pool import Pool
from baselines.ridge import FOLDS, RidgeMap
from nccleaner.config import RunConfig
from nccleaner.evaluate.retrieval import RetrievalMetrics, retrieval_metrics
from nccleaner.purify.frozen import Frozen
from nccleaner.purify.standardise import Standardiser

# Of nccleaner's learning rate, which makes it that of the paper; higher ones collapse under noise.
_VSE_SHARE = 0.2
# Of the ridge map, in variances of the features.
_PENALTY = 1.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a method says of the pairs of its pool.

    Attributes:
        scores: [n], higher = cleaner.
        clean_probability: [n], in [0, 1]; above 0.5 is kept.
        networks: Those whose mean cosine retrieves; empty where the method learns no embedding.
    """

    scores: npt.NDArray[np.float64]
    clean_probability: npt.NDArray[np.float64]
    networks: Sequence[Training] = ()

    def retrieval(self, clean: Pool) -> RetrievalMetrics | None:
        """Measures retrieval on clean pairs that were not in the pool."""
        if not self.networks:
            return None
        # The mean of cosines is the cosine of embeddings side by side.
        sides = zip(*(network.embed(clean.features) for network in self.networks), strict=True)
        images, texts = (torch.cat(side, dim=1).cpu().numpy() for side in sides)
        text_rows, image_rows = clean.pairs.text_rows.cpu(), clean.pairs.image_rows.cpu()
        return retrieval_metrics(images, texts[text_rows.numpy()], image_rows.numpy())


@dataclass
class Baselines:
    """The baselines on one pool.

    Attributes:
        pool: All pairs of the noisy shards; the trusted ones are in it unmarked, since clean pairs
            help whoever trains on them.
        config: The settings that nccleaner itself is fitted with.
        seed: Of everything that is drawn.
    """

    pool: Pool
    config: RunConfig
    seed: int

    def vse(self) -> Verdict:
        """Cosine of a dual encoder trained with the hardest negative, VSE++."""
        rate = _VSE_SHARE * self.config.train.learning_rate
        train = self.config.train.model_copy(update={"learning_rate": rate})
        config = self.config.model_copy(update={"train": train})
        return self._by_cosine([self._train(hardest_negative, nn.Identity, config)])

    def info_nce(self) -> Verdict:
        """Cosine of a dual encoder trained with symmetric InfoNCE."""
        return self._by_cosine([self._info_nce])

    def ncr(self) -> Verdict:
        """Mean cosine of two networks with a loss mixture."""
        networks, posterior = train_divided(self.pool, self.config, seed=self.seed)
        return Verdict(self._cosines(networks).numpy(), posterior, networks)

    def lemon_raw(self) -> Verdict:
        """LEMoN on the frozen features; the ridge map compares across the modalities."""
        frozen = self._standardised
        return self._by_neighbours(frozen.images, frozen.texts, self._ridge_cosines)

    def lemon_learned(self) -> Verdict:
        """LEMoN on the embeddings that InfoNCE learned."""
        images, texts = self._info_nce.embed(self.pool.features)
        pairs = self.pool.pairs
        return self._by_neighbours(
            images[pairs.image_rows], texts[pairs.text_rows], self._cosines([self._info_nce])
        )

    def ridge(self) -> Verdict:
        """Cosine of a ridge map between the frozen features, out of fold."""
        scores = self._ridge_cosines.numpy()
        return Verdict(scores, clean_posterior(scores))

    def _train(
        self, loss: Callable[[Batch], Tensor], head: type[nn.Module], config: RunConfig
    ) -> Training:
        network = Training(self.pool, config, loss=loss, head=head, seed=self.seed)
        everything = torch.ones(len(self.pool.pairs), device=self.pool.features.images.device)
        with training_numbers(self.seed):
            for _ in range(network.epochs):
                network.run_epoch(everything)
        return network

    @cached_property
    def _info_nce(self) -> Training:
        return self._train(info_nce, Semantic, self.config)

    def _by_cosine(self, networks: Sequence[Training]) -> Verdict:
        scores = self._cosines(networks).numpy()
        return Verdict(scores, clean_posterior(scores), networks)

    def _cosines(self, networks: Sequence[Training]) -> Tensor:
        """Mean cosine of each pair of the pool, [n] float64 on the CPU."""
        pairs, cosines = self.pool.pairs, []
        for network in networks:
            images, texts = network.embed(self.pool.features)
            cosines.append((images[pairs.image_rows] * texts[pairs.text_rows]).sum(dim=1))
        return torch.stack(cosines).double().mean(dim=0).cpu()

    @cached_property
    def _standardised(self) -> Frozen:
        frozen = self.pool.frozen()
        return Frozen(
            Standardiser.fit(frozen.images)(frozen.images),
            Standardiser.fit(frozen.texts)(frozen.texts),
            frozen.identities,
        )

    @cached_property
    def _ridge_cosines(self) -> Tensor:
        """Mean cosine in both directions, [n] float64 on the CPU."""
        pairs = self._standardised
        folds = pairs.identities % FOLDS
        ridge = RidgeMap.fit(
            pairs.images,
            pairs.texts,
            folds=folds,
            weights=torch.ones_like(folds, dtype=torch.float32),
            penalty=_PENALTY,
        )
        both = ridge.cosines(pairs.images, pairs.texts, folds=folds)
        return torch.stack(both).double().mean(dim=0).cpu()

    def _by_neighbours(self, images: Tensor, texts: Tensor, cosines: Tensor) -> Verdict:
        with training_numbers(self.seed):
            scores = lemon_scores(
                images,
                texts,
                identities=self.pool.identities[self.pool.pairs.image_rows],
                own_distances=(1 - cosines).float().to(images.device),
            )
        values = scores.double().cpu().numpy()
        return Verdict(values, clean_posterior(values))


# The baselines by the names they have in tables.
BASELINES: dict[str, Callable[[Baselines], Verdict]] = {
    "vse++": Baselines.vse,
    "infonce": Baselines.info_nce,
    "ncr": Baselines.ncr,
    "lemon-raw": Baselines.lemon_raw,
    "lemon-learned": Baselines.lemon_learned,
    "ridge": Baselines.ridge,
}
