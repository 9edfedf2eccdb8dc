"""A small scorer with two judges, and the pairs that they were fitted on."""

from __future__ import annotations

import pytest
import torch
from networks import latent_features, rows
from scorers import COUNT, IDENTITIES, architecture, judges_of

from nccleaner.purify.canonical import CanonicalView
from nccleaner.purify.frozen import Frozen, FrozenEvidence, FrozenPool
from nccleaner.purify.scoring import Scorer
from nccleaner.train.networks import build_networks
from nccleaner.train.pairs import Features


@pytest.fixture(scope="module")
def features():
    """Images and captions in float16, as the cache holds them."""
    images, texts = latent_features(COUNT, width=10, latent=4)
    return Features(images.half(), texts.half())


@pytest.fixture(scope="module")
def pairs():
    """All matched pairs, then as many mismatched ones."""
    first = torch.arange(COUNT)
    return rows(torch.cat([first, first]), torch.cat([first, first.roll(1)]))


@pytest.fixture(scope="module")
def scorer(features, pairs):
    networks = [build_networks(architecture(), seed=seed) for seed in range(2)]
    frozen = FrozenEvidence.fit(
        FrozenPool.of(Frozen(features.images.float(), features.texts.float(), IDENTITIES)),
        weights=torch.ones(COUNT),
        references=50,
        neighbours=5,
        shrinkage=1.0,
        generator=torch.Generator().manual_seed(0),
    )
    canonical = CanonicalView.fit(
        features.images.float(), features.texts.float(), weights=torch.ones(COUNT), shrinkage=1.0
    )
    made = Scorer(
        architecture=architecture(),
        networks=networks,
        frozen=frozen,
        canonical=canonical,
        siblings=False,
        judges=None,
        tokenizer="",
    )
    made.judges = judges_of(made, features, pairs)
    return made
