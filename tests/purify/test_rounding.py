"""What bfloat16 makes of evidence, on hardware that computes with it and on any other."""

from __future__ import annotations

import pytest
import torch
from networks import latent_features
from torch.nn import functional as F

from nccleaner.purify import canonical as canonical_module
from nccleaner.purify import frozen as frozen_module
from nccleaner.purify import scoring as scoring_module
from nccleaner.purify.canonical import CanonicalView
from nccleaner.purify.frozen import Frozen, FrozenEvidence, FrozenPool
from nccleaner.purify.scoring import Scorer
from nccleaner.train.networks import Architecture, build_networks

COUNT, WIDTH = 300, 24


@pytest.fixture(scope="module")
def pool():
    images, texts = latent_features(COUNT, width=WIDTH, latent=6)
    return Frozen(images, texts, torch.arange(COUNT))


@pytest.fixture
def computing_with(monkeypatch):
    def choose(dtype):
        for module in (canonical_module, frozen_module, scoring_module):
            monkeypatch.setattr(module, "fast_dtype", lambda device: dtype)

    return choose


def test_frozen_evidence_changes_little(pool, computing_with):
    evidence = FrozenEvidence.fit(
        FrozenPool.of(pool),
        weights=torch.ones(COUNT),
        references=200,
        neighbours=20,
        shrinkage=1.0,
        generator=torch.Generator().manual_seed(0),
    )
    computing_with(torch.float32)
    exact = evidence.of(pool)
    computing_with(torch.bfloat16)
    rounded = FrozenEvidence.from_tensors(evidence.tensors()).of(pool)

    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, atol=0.03, rtol=0)


def test_embeddings_change_little_and_have_length_1(pool, computing_with):
    architecture = Architecture(
        image_width=WIDTH,
        text_width=WIDTH,
        vocabulary=0,
        embedding_width=8,
        gru_layers=1,
        joint_width=64,
        similarity_width=4,
        meta_hidden_width=4,
        dropout=0.5,
        temperature=0.05,
    )
    scorer = Scorer(
        architecture=architecture,
        networks=[build_networks(architecture, seed=seed) for seed in range(2)],
        frozen=None,
        canonical=CanonicalView.fit(
            pool.images, pool.texts, weights=torch.ones(COUNT), shrinkage=None
        ),
        siblings=False,
        judges=None,
        tokenizer="",
    )
    for embed, features in (
        (scorer.embed_images, pool.images.half()),
        (scorer.embed_texts, pool.texts.half()),
    ):
        computing_with(torch.float32)
        exact = embed(features)
        computing_with(torch.bfloat16)
        rounded = embed(features)

        assert not torch.equal(rounded, exact)
        torch.testing.assert_close(rounded.norm(dim=1), torch.ones(COUNT), atol=1e-6, rtol=0)
        assert F.cosine_similarity(rounded, exact).min() > 0.9995
