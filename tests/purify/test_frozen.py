from __future__ import annotations

import pytest
import torch
from networks import latent_features

from nccleaner.purify import frozen as module
from nccleaner.purify.frozen import Frozen, FrozenEvidence, FrozenPool

COUNT, NOISY = 400, 120


@pytest.fixture(scope="module")
def pool():
    """400 pairs; the captions of the first 120 are exchanged."""
    images, texts = latent_features(COUNT, width=12, latent=5)
    texts = torch.cat([texts[:NOISY].roll(1, dims=0), texts[NOISY:]])
    return Frozen(images, texts, torch.arange(COUNT) * 7919)


def fit(pool, seed=0, references=200):
    return FrozenEvidence.fit(
        FrozenPool.of(pool),
        weights=torch.ones(len(pool.images)),
        references=references,
        neighbours=10,
        shrinkage=1.0,
        generator=torch.Generator().manual_seed(seed),
    )


def test_each_kind_of_evidence_is_higher_for_matched_pairs(pool):
    evidence = fit(pool).of(pool)

    assert evidence.shape == (COUNT, 3)
    wins = evidence[NOISY:, None, :] > evidence[None, :NOISY, :]
    assert (wins.float().mean(dim=(0, 1)) > 0.85).all()


def test_evidence_does_not_depend_on_the_portion_in_which_a_pair_comes(pool, monkeypatch):
    evidence = fit(pool)
    whole = evidence.of(pool)
    monkeypatch.setattr(module, "_BLOCK_ROWS", 37)

    torch.testing.assert_close(evidence.of(pool), whole, atol=1e-6, rtol=0)
    assert evidence.of(pool.take(slice(0, 0))).shape == (0, 3)


def test_rounds_of_fitting_share_the_principal_components(pool, monkeypatch):
    found = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: found.append(1) or eigh(matrix))
    standardised = FrozenPool.of(pool)

    for weight in (1.0, 0.5):
        FrozenEvidence.fit(
            standardised,
            weights=torch.full((COUNT,), weight),
            references=200,
            neighbours=10,
            shrinkage=None,
            generator=torch.Generator(),
        )

    assert len(found) == 2  # images and captions


def test_the_seed_draws_the_references(pool):
    first, again, other = fit(pool), fit(pool), fit(pool, seed=1)

    assert torch.equal(first.of(pool), again.of(pool))
    assert not torch.equal(first.references.identities, other.references.identities)


def test_fewer_pairs_than_references_and_neighbours_are_enough(pool):
    few = pool.take(slice(0, 6))

    assert torch.isfinite(fit(few, references=8192).of(few)).all()


def test_tensors_restore_it_exactly(pool):
    evidence = fit(pool)
    restored = FrozenEvidence.from_tensors(evidence.tensors())

    assert torch.equal(restored.of(pool), evidence.of(pool))
