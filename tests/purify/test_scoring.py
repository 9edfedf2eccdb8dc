from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from networks import latent_features, rows
from safetensors.torch import load_file, save_file

from nccleaner.errors import RunError
from nccleaner.purify import scoring as module
from nccleaner.purify.frozen import Frozen, FrozenEvidence
from nccleaner.purify.judge import fit_judge
from nccleaner.purify.mixture import fit_mixture
from nccleaner.purify.scoring import Judges, Scorer, scorer_identity
from nccleaner.train.networks import Architecture, build_networks
from nccleaner.train.pairs import Features, Pairs

COUNT = 120
FIT = partial(fit_mixture, prior="anchor", max_iterations=10, tolerance=1e-3)


def architecture(vocabulary=0):
    return Architecture(
        image_width=10,
        text_width=0 if vocabulary else 10,
        vocabulary=vocabulary,
        embedding_width=8,
        gru_layers=1,
        joint_width=6,
        similarity_width=4,
        meta_hidden_width=4,
        dropout=0.5,
        temperature=0.05,
    )


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


IDENTITIES = torch.arange(COUNT)


@pytest.fixture(scope="module")
def scorer(features, pairs):
    networks = [build_networks(architecture(), seed=seed) for seed in range(2)]
    frozen = FrozenEvidence.fit(
        Frozen(features.images.float(), features.texts.float(), IDENTITIES),
        weights=torch.ones(COUNT),
        references=50,
        neighbours=5,
        penalty=1.0,
        generator=torch.Generator().manual_seed(0),
    )
    made = Scorer(
        architecture=architecture(), networks=networks, frozen=frozen, judges=None, tokenizer=""
    )
    made.judges = judges_of(made, features, pairs)
    return made


def judges_of(scorer, features, pairs):
    evidence = scorer.gather(features, pairs, identities=IDENTITIES)
    judges = [
        fit_judge(
            evidence.of_networks,
            evidence.similarity,
            np.arange(len(pairs)) < COUNT,
            pool_evidence=evidence.of_networks,
            fit=FIT,
            seed=seed,
        )
        for seed in range(2)
    ]
    judges[1].heads[0].weights[0] += 1.0  # so that it matters who judges
    return Judges(*judges)


def gather(scorer, features, pairs):
    return scorer.gather(features, pairs, identities=IDENTITIES)


def test_the_product_of_embeddings_is_the_similarity(scorer, features, pairs):
    images, texts = scorer.embed_images(features.images), scorer.embed_texts(features.texts)
    products = (images[pairs.image_rows] * texts[pairs.text_rows]).sum(dim=1)

    np.testing.assert_allclose(products, gather(scorer, features, pairs).similarity, atol=1e-6)
    torch.testing.assert_close(images.norm(dim=1), torch.ones(COUNT))
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(COUNT))


def test_evidence_is_logit_other_networks_cosine_and_frozen(scorer, features, pairs):
    evidence = gather(scorer, features, pairs)

    assert [rows_of.shape for rows_of in evidence.of_networks] == [(2 * COUNT, 6)] * 2
    cosines = [rows_of[:, 1] for rows_of in evidence.of_networks]
    np.testing.assert_allclose(np.mean(cosines, axis=0), evidence.similarity, atol=1e-6)
    np.testing.assert_array_equal(evidence.of_networks[0][:, 2:], evidence.of_networks[1][:, 2:])


def test_scores_are_in_their_ranges_and_do_not_depend_on_portions(
    scorer, features, pairs, monkeypatch
):
    fitted = np.arange(2 * COUNT) % 2 == 0
    whole = scorer.score(gather(scorer, features, pairs), fitted=fitted)
    assert (np.abs(whole.similarity) <= 1).all()
    for column in (whole.corrected_similarity, whole.clean_probability):
        assert ((column >= 0) & (column <= 1)).all()

    monkeypatch.setattr(module, "_BLOCK_ROWS", 7)
    parts = scorer.score(gather(scorer, features, pairs), fitted=fitted)
    for one, other in zip(whole, parts, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_each_pair_is_judged_by_its_standing(scorer, features, pairs):
    evidence = gather(scorer, features, pairs)
    fitted = np.arange(2 * COUNT) < 50
    mixed = scorer.score(evidence, fitted=fitted)
    inside = scorer.score(evidence, fitted=np.ones_like(fitted))
    outside = scorer.score(evidence, fitted=np.zeros_like(fitted))

    for column in ("corrected_similarity", "clean_probability"):
        expected = np.where(fitted, getattr(inside, column), getattr(outside, column))
        np.testing.assert_allclose(getattr(mixed, column), expected, atol=1e-6)
    assert not np.array_equal(inside.corrected_similarity, outside.corrected_similarity)


def test_a_shard_without_a_pair_has_no_scores(scorer, features):
    none = Pairs(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
    empty = Features(features.images[:0], features.texts[:0])

    evidence = scorer.gather(empty, none, identities=IDENTITIES[:0])
    scores = scorer.score(evidence, fitted=np.empty(0, dtype=bool))

    assert [len(column) for column in scores] == [0, 0, 0]


# Files


def test_a_file_restores_every_bit(scorer, features, pairs, tmp_path):
    path = tmp_path / "scorer.safetensors"
    identity = scorer.save(path)
    restored = Scorer.load(path, device="cpu")

    assert identity == scorer_identity(path)
    fitted = np.arange(2 * COUNT) % 3 == 0
    before = scorer.score(gather(scorer, features, pairs), fitted=fitted)
    after = restored.score(gather(restored, features, pairs), fitted=fitted)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    assert restored.save(tmp_path / "again.safetensors") == identity


def test_captions_may_come_as_tokens(pairs, features, tmp_path):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 20, (COUNT, 5), generator=generator)
    networks = [build_networks(architecture(vocabulary=20), seed=seed) for seed in range(2)]
    scorer = Scorer(
        architecture=architecture(vocabulary=20),
        networks=networks,
        frozen=None,
        judges=None,
        tokenizer="{}",
    )
    given = Features(features.images, tokens)
    scorer.judges = judges_of(scorer, given, pairs)
    scorer.save(tmp_path / "scorer.safetensors")
    restored = Scorer.load(tmp_path / "scorer.safetensors", device="cpu")

    before, after = gather(scorer, given, pairs), gather(restored, given, pairs)
    assert before.of_networks[0].shape == (2 * COUNT, 2)
    np.testing.assert_array_equal(before.of_networks[1], after.of_networks[1])


def rewrite(path, metadata=None, drop=None):
    """Writes a scorer's file again with other metadata or without a tensor."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        kept = dict(file.metadata())
    tensors = load_file(path)
    if drop:
        del tensors[drop]
    save_file(tensors, path, metadata=kept if metadata is None else metadata)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(path.read_bytes()[:1000]),
        lambda path: path.write_bytes(b"x" * 5000),
        lambda path: rewrite(path, metadata={}),
        lambda path: rewrite(path, metadata={"nccleaner": "{"}),
        lambda path: rewrite(path, metadata={"nccleaner": "[1]"}),
        lambda path: rewrite(path, metadata={"nccleaner": '{"layout": 1}'}),
        lambda path: rewrite(path, metadata={"nccleaner": '{"layout": 99}'}),
        lambda path: rewrite(path, drop="frozen.image_mean"),
        lambda path: rewrite(path, drop="main_net.0.image_tower.linear.weight"),
    ],
    ids=str,
)
def test_a_file_that_is_missing_or_damaged_says_what_to_do(scorer, tmp_path, damage):
    path = tmp_path / "scorer.safetensors"
    scorer.save(path)
    damage(path)

    with pytest.raises(RunError, match="nccleaner fit") as caught:
        Scorer.load(path, device="cpu")
    assert str(path) in caught.value.message
