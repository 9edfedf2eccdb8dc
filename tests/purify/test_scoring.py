from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import torch
from networks import latent_features, rows
from scorers import COUNT, IDENTITIES, alone, architecture, believed, gather, judges_of

from nccleaner.model.products import float32_products
from nccleaner.purify import scoring as module
from nccleaner.purify.scoring import Scorer
from nccleaner.train.networks import build_networks
from nccleaner.train.pairs import Features, Pairs


def test_the_product_of_embeddings_is_the_similarity(scorer, features, pairs):
    images, texts = scorer.embed_images(features.images), scorer.embed_texts(features.texts)
    products = (images[pairs.image_rows] * texts[pairs.text_rows]).sum(dim=1)

    np.testing.assert_allclose(products, gather(scorer, features, pairs).similarity, atol=1e-6)
    torch.testing.assert_close(images.norm(dim=1), torch.ones(COUNT))
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(COUNT))


def test_evidence_is_the_same_where_products_may_round_already(scorer, features, pairs):
    alone = gather(scorer, features, pairs)
    with float32_products(rounded=True):
        within = gather(scorer, features, pairs)

    for one, other in zip(alone.of_rows(slice(None)), within.of_rows(slice(None)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert torch.get_float32_matmul_precision() == "highest"


def test_progress_comes_to_all_pairs(scorer, features, pairs):
    told = []
    scorer.gather(features, pairs, identities=IDENTITIES, advance=told.append)
    assert sum(told) == len(pairs)


def test_evidence_is_logit_other_networks_cosine_contrast_and_frozen(scorer, features, pairs):
    evidence = gather(scorer, features, pairs)

    assert [own.shape for own in evidence.of_networks] == [(2 * COUNT, 2)] * 2
    canonical = scorer.canonical.embed_images(features.images)[pairs.image_rows]
    canonical = canonical * scorer.canonical.embed_texts(features.texts)[pairs.text_rows]
    cosines = [*(own[:, 1] for own in evidence.of_networks), canonical.sum(dim=1).numpy()]
    np.testing.assert_allclose(np.mean(cosines, axis=0), evidence.similarity, atol=1e-6)
    assert (evidence.contrast.shape, evidence.frozen.shape) == ((2 * COUNT, 2), (2 * COUNT, 3))
    assert evidence.siblings is None
    some = np.arange(2 * COUNT) % 3 == 0
    for own, whole in zip(evidence.of_networks, evidence.of_rows(some), strict=True):
        expected = [own[some], evidence.contrast[some], evidence.frozen[some]]
        np.testing.assert_array_equal(whole, np.column_stack(expected))
    belief = np.linspace(0, 1, 2 * COUNT, dtype=np.float32)
    for whole in evidence.of_rows(some, belief, contrast_alone=True):
        expected = [belief[some], evidence.contrast[some]]
        np.testing.assert_array_equal(whole, np.column_stack(expected))


def test_alternatives_are_pairs_of_the_pool_drawn_by_seed(scorer, features, pairs):
    drawn = []
    for seed in (0, 0, 1):
        scorer.find_alternatives(features, pairs, identities=IDENTITIES, seed=seed)
        drawn.append(scorer.contrast)
    scorer.find_alternatives(features, pairs, identities=IDENTITIES, seed=0)

    assert torch.equal(drawn[0].images, drawn[1].images)
    assert not torch.equal(drawn[0].identities, drawn[2].identities)
    assert sorted(drawn[0].identities.tolist()) == sorted(2 * list(range(COUNT)))
    images = scorer.embed_images(features.images)
    torch.testing.assert_close(drawn[0].images, images[drawn[0].identities])
    evidence = gather(scorer, features, pairs)
    by_hand = scorer.contrast.of(
        images[pairs.image_rows],
        scorer.embed_texts(features.texts)[pairs.text_rows],
        IDENTITIES[pairs.image_rows],
    )
    np.testing.assert_allclose(evidence.contrast, by_hand, atol=1e-4)


def test_an_equal_caption_is_no_alternative_however_products_are_rounded():
    wide = replace(architecture(), image_width=256, text_width=256, joint_width=256)
    once = COUNT // 2
    images, texts = latent_features(COUNT, width=256, latent=4)
    features = Features(images, torch.cat([texts[:once], texts[:once]]))
    scorer = Scorer(
        architecture=wide,
        networks=[build_networks(wide, seed=0)],
        frozen=None,
        canonical=None,
        siblings=False,
        judges=None,
        tokenizer="",
    )
    matched = rows(torch.arange(COUNT), torch.arange(COUNT))
    scorer.find_alternatives(features, matched, identities=IDENTITIES, seed=0)
    evidence = gather(scorer, features, matched)

    image, text = scorer.embed_images(images).double(), scorer.embed_texts(features.texts).double()
    cosine = image @ text.T
    nearer = 20 * (cosine - cosine.diagonal()[:, None])
    others = torch.arange(COUNT) % once != torch.arange(COUNT)[:, None] % once
    odds = others.sum(dim=1).log() - nearer.where(others, -torch.inf).logsumexp(dim=1)
    np.testing.assert_allclose(evidence.contrast[:, 0], odds, atol=0.02)


def test_a_large_pool_gives_only_so_many_alternatives(scorer, features, pairs, monkeypatch):
    monkeypatch.setattr(module, "REFERENCES", 10)
    scorer = alone(scorer, networks=2)
    scorer.find_alternatives(features, pairs, identities=IDENTITIES, seed=0)

    assert [len(part) for part in asdict(scorer.contrast).values()] == [10, 10, 10]


def test_one_network_is_its_own_other(scorer, features, pairs, tmp_path):
    single = alone(scorer, networks=1)
    single.judges = judges_of(single, features, pairs)
    evidence = gather(single, features, pairs)
    (own,), (first, _) = evidence.of_networks, gather(scorer, features, pairs).of_networks
    np.testing.assert_array_equal(own[:, 0], first[:, 0])
    canonical = single.canonical.embed_images(features.images)[pairs.image_rows]
    canonical = canonical * single.canonical.embed_texts(features.texts)[pairs.text_rows]
    both = (own[:, 1] + canonical.sum(dim=1).numpy()) / 2
    np.testing.assert_allclose(both, evidence.similarity, atol=1e-6)

    identity = single.save(tmp_path / "single.safetensors")
    restored = Scorer.load(tmp_path / "single.safetensors", device="cpu")
    assert len(restored.networks) == 1
    assert restored.save(tmp_path / "again.safetensors") == identity


def test_scores_are_in_their_ranges_and_do_not_depend_on_portions(
    scorer, features, pairs, monkeypatch
):
    belief = believed(2 * COUNT, np.arange(2 * COUNT) % 2 == 0)
    whole = scorer.score(gather(scorer, features, pairs), belief=belief)
    assert (np.abs(whole.similarity) <= 1).all()
    for column in (whole.corrected_similarity, whole.clean_probability):
        assert ((column >= 0) & (column <= 1)).all()

    monkeypatch.setattr(module, "_BLOCK_ROWS", 7)
    parts = scorer.score(gather(scorer, features, pairs), belief=belief)
    for one, other in zip(whole, parts, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_pair_is_judged_by_what_training_believed_of_it_too(scorer, features, pairs):
    evidence, judge = gather(scorer, features, pairs), scorer.judges.fitted
    little, much = np.full((2, 2 * COUNT), [[0.1], [0.9]], dtype=np.float32)
    weighs = np.array([head.weights[0] for head in judge.heads])
    assert (np.abs(weighs) > 1e-3).all()

    low, high = (scorer.score(evidence, belief=belief) for belief in (little, much))

    by_hand = judge.corrected_similarity(evidence.of_rows(slice(None), little))
    np.testing.assert_array_equal(low.corrected_similarity, by_hand)
    assert not np.allclose(low.corrected_similarity, high.corrected_similarity, atol=1e-4)
    np.testing.assert_array_equal(low.similarity, high.similarity)


def test_each_pair_is_judged_by_its_standing(scorer, features, pairs):
    evidence = gather(scorer, features, pairs)
    fitted = np.arange(2 * COUNT) < 50
    mixed, inside, outside = (
        scorer.score(evidence, belief=believed(2 * COUNT, standing))
        for standing in (fitted, True, False)
    )

    for column in ("corrected_similarity", "clean_probability"):
        expected = np.where(fitted, getattr(inside, column), getattr(outside, column))
        np.testing.assert_allclose(getattr(mixed, column), expected, atol=1e-6)
    assert not np.array_equal(inside.corrected_similarity, outside.corrected_similarity)


def test_a_shard_without_a_pair_has_no_scores(scorer, features):
    none = Pairs(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
    empty = Features(features.images[:0], features.texts[:0])

    evidence = scorer.gather(empty, none, identities=IDENTITIES[:0])
    scores = scorer.score(evidence, belief=believed(0))

    assert [len(column) for column in scores] == [0, 0, 0]
