from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from networks import latent_features, rows
from safetensors.torch import load_file, save_file

from nccleaner.errors import RunError
from nccleaner.model.products import float32_products
from nccleaner.purify import scoring as module
from nccleaner.purify.canonical import CanonicalView
from nccleaner.purify.frozen import Frozen, FrozenEvidence
from nccleaner.purify.judge import Judges, fit_judge
from nccleaner.purify.scorer_file import scorer_identity
from nccleaner.purify.scoring import Scorer
from nccleaner.purify.siblings import Siblings
from nccleaner.train.networks import Architecture, build_networks
from nccleaner.train.pairs import Features, Pairs

COUNT = 120


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


def judges_of(scorer, features, pairs):
    """Finds the alternatives, and fits two judges, so unlike that it matters who judges."""
    scorer.find_alternatives(features, pairs, identities=IDENTITIES, seed=0)
    evidence = gather(scorer, features, pairs)
    judges = []
    for seed, rate, belief in ((0, 0.3, believed(len(pairs))), (1, 0.5, None)):
        known = evidence.of_rows(slice(None), belief)
        judges.append(
            fit_judge(
                known,
                evidence.similarity,
                np.arange(len(pairs)) < COUNT,
                pool_evidence=known,
                hears_belief=belief is not None,
                seed=seed,
                noise_rate=rate,
            )
        )
    judges[1].heads[0].weights[0] += 1.0
    return Judges(*judges)


def believed(count, fitted=True):
    """What training believed of pairs; not a number where the networks were not trained on them."""
    belief = np.random.default_rng(5).random(count)
    return np.where(fitted, belief, np.nan).astype(np.float32)


def gather(scorer, features, pairs):
    return scorer.gather(features, pairs, identities=IDENTITIES)


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


def alone(scorer, *, networks, siblings=False):
    """A scorer with some of the networks of another; without judges."""
    return Scorer(
        architecture=scorer.architecture,
        networks=scorer.networks[:networks],
        frozen=scorer.frozen,
        canonical=scorer.canonical,
        siblings=siblings,
        judges=None,
        tokenizer="",
    )


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


# Siblings


@pytest.fixture(scope="module")
def family(scorer, features):
    """A scorer that hears siblings; four captions an image, of which one is another image's.

    Images say little of their captions, so that siblings matter.
    """
    drawn = torch.randn(2, COUNT, 10, generator=torch.Generator().manual_seed(0)).half()
    texts = features.texts[::4].repeat_interleave(4, dim=0) + 0.5 * drawn[0]
    given = Features(features.images + 10 * drawn[1], texts)
    captions = torch.arange(COUNT)
    moved = captions % 4 == 0
    captions = torch.where(moved, (captions + 40) % COUNT, captions)
    pairs = rows(torch.arange(COUNT) // 4 * 4, captions)
    hearing = alone(scorer, networks=2, siblings=True)
    hearing.find_alternatives(given, pairs, identities=IDENTITIES, seed=0)
    evidence = gather(hearing, given, pairs)
    known = evidence.of_rows(slice(None))
    judge = fit_judge(
        known, evidence.similarity, ~moved.numpy(), pool_evidence=known, seed=0, noise_rate=0.25
    )
    agreement = evidence.siblings.agreement(np.ones(COUNT))
    fitted = judge.with_siblings(
        known, agreement, pool_evidence=known, pool_agreement=agreement, seed=0
    )
    assert fitted.sibling_heads
    hearing.judges = Judges(fitted, judge)
    return hearing, given, pairs


def test_siblings_are_weighed_by_what_is_believed_of_them(family):
    scorer, features, pairs = family
    evidence = gather(scorer, features, pairs)
    siblings = Siblings.among(pairs, features.texts, scorer.frozen.of_texts)
    judge, known = scorer.judges.fitted, evidence.of_rows(slice(None))
    rounds = [judge.corrected_similarity(known)]
    for _ in range(2):
        rounds.append(judge.corrected_similarity(known, siblings.agreement(rounds[-1])))

    scores = scorer.score(evidence, belief=believed(COUNT))

    np.testing.assert_array_equal(scores.corrected_similarity, rounds[2])
    np.testing.assert_array_equal(scores.clean_probability, judge.clean_probability(rounds[2]))
    assert np.abs(rounds[1] - rounds[0]).max() > 0.01 < np.abs(rounds[2] - rounds[0]).max()
    assert not np.array_equal(rounds[2], rounds[1])


def test_a_judge_that_does_not_hear_siblings_scores_without(family):
    scorer, features, pairs = family
    evidence = gather(scorer, features, pairs)

    scores = scorer.score(evidence, belief=believed(COUNT, fitted=False))

    expected = scorer.judges.unseen.corrected_similarity(evidence.of_rows(slice(None)))
    np.testing.assert_array_equal(scores.corrected_similarity, expected)


def test_one_caption_an_image_has_no_siblings(family):
    scorer, features, _ = family
    evidence = gather(scorer, features, rows(torch.arange(COUNT)))

    assert evidence.siblings is None
    assert np.isfinite(scorer.score(evidence, belief=believed(COUNT))).all()


def test_a_file_restores_that_siblings_are_heard(family, tmp_path):
    scorer, features, pairs = family
    scorer.save(tmp_path / "scorer.safetensors")
    restored = Scorer.load(tmp_path / "scorer.safetensors", device="cpu")

    belief = believed(COUNT, np.arange(COUNT) % 2 == 0)
    before, after = (
        each.score(gather(each, features, pairs), belief=belief) for each in (scorer, restored)
    )
    assert gather(restored, features, pairs).siblings is not None
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


# Files


def test_a_file_restores_every_bit(scorer, features, pairs, tmp_path):
    path = tmp_path / "scorer.safetensors"
    identity = scorer.save(path)
    restored = Scorer.load(path, device="cpu")

    assert identity == scorer_identity(path)
    belief = believed(2 * COUNT, np.arange(2 * COUNT) % 3 == 0)
    before = scorer.score(gather(scorer, features, pairs), belief=belief)
    after = restored.score(gather(restored, features, pairs), belief=belief)
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
        canonical=None,
        siblings=False,
        judges=None,
        tokenizer="{}",
    )
    given = Features(features.images, tokens)
    scorer.judges = judges_of(scorer, given, pairs)
    scorer.save(tmp_path / "scorer.safetensors")
    restored = Scorer.load(tmp_path / "scorer.safetensors", device="cpu")

    before, after = gather(scorer, given, pairs), gather(restored, given, pairs)
    assert before.frozen.shape == (2 * COUNT, 0)
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
        lambda path: rewrite(path, metadata={"nccleaner": '{"layout": 2}'}),
        lambda path: rewrite(path, metadata={"nccleaner": '{"layout": 99}'}),
        lambda path: rewrite(path, drop="frozen.image_mean"),
        lambda path: rewrite(path, drop="contrast.texts"),
        lambda path: rewrite(path, drop="main_net.0.image_tower.linear.weight"),
    ],
)
def test_a_file_that_is_missing_or_damaged_says_what_to_do(scorer, tmp_path, damage):
    path = tmp_path / "scorer.safetensors"
    scorer.save(path)
    damage(path)

    with pytest.raises(RunError, match="nccleaner fit") as caught:
        Scorer.load(path, device="cpu")
    assert str(path) in caught.value.message
