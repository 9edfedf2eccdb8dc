from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from networks import ALL_LOSSES, build_main_net, build_meta_net, latent_features, rows

from nccleaner.model.losses import (
    adaptive_margin,
    hinge_loss,
    info_nce_loss,
    meta_loss,
    modality_loss,
    no_negatives,
    specific_loss,
)
from nccleaner.train.objective import (
    NoisyBatch,
    main_loss,
    mismatched_for,
    pair_logits,
    trusted_loss,
)
from nccleaner.train.pairs import TrustedPairs

FEATURES = latent_features(20, width=6, latent=3, dtype=torch.float64)
# Images 0 and 1 come twice, and so does caption 5.
PAIRS = rows([0, 1, 0, 2, 3, 1, 4], [0, 1, 5, 2, 3, 5, 4])
WEIGHTS = torch.linspace(0.2, 1, 7, dtype=torch.float64)
NOTHING = replace(ALL_LOSSES, info_nce=0.0, hinge=0.0, modality=0.0, specific=0.0)


@pytest.fixture
def nets():
    return build_main_net(), build_meta_net()


def loss_of(nets, loss_weights=ALL_LOSSES, *, warm_up=False, weights=WEIGHTS):
    batch = NoisyBatch(FEATURES, PAIRS, weights, warm_up)
    return main_loss(*nets, batch, loss_weights=loss_weights)


def expected_terms(nets, *, warm_up):
    """Each term of the main loss from the parts, with corrected similarities pair by pair."""
    main_net, meta_net = nets
    image, text = main_net(FEATURES.images[PAIRS.image_rows], FEATURES.texts[PAIRS.text_rows])
    excluded = no_negatives(PAIRS.image_rows) | no_negatives(PAIRS.text_rows)
    count = len(PAIRS)
    corrected = torch.stack(
        [
            pair_logits(
                main_net, meta_net, image.semantic[i].expand(count, -1), text.semantic
            ).sigmoid()
            for i in range(count)
        ]
    )
    matched = corrected.diagonal()
    margins = torch.full_like(WEIGHTS, 0.2) if warm_up else adaptive_margin(matched, margin=0.2)
    return {
        "info_nce": info_nce_loss(
            image.semantic @ text.semantic.T,
            inverse_temperature=main_net.inverse_temperature,
            weights=WEIGHTS,
            excluded=excluded,
        ),
        "hinge": hinge_loss(
            corrected, margins=margins, weights=WEIGHTS, excluded=excluded, hardest=not warm_up
        ),
        "modality": modality_loss(image, text, margin=0.1),
        "specific": specific_loss(image, text),
    }


@pytest.mark.parametrize("warm_up", [True, False])
def test_the_main_loss_is_the_weighted_sum_of_its_terms(nets, warm_up):
    terms = expected_terms(nets, warm_up=warm_up)
    for name, value in terms.items():
        alone = loss_of(nets, replace(NOTHING, **{name: 2.0}), warm_up=warm_up)
        assert alone.item() == pytest.approx(2 * value.item(), rel=1e-10)
    total = sum(getattr(ALL_LOSSES, name) * value.item() for name, value in terms.items())
    assert loss_of(nets, warm_up=warm_up).item() == pytest.approx(total, rel=1e-10)


def test_the_margin_passes_no_gradient_to_the_meta_network(nets):
    """θ acts on the hinge through the similarities alone: p is a constant."""
    only_hinge = replace(NOTHING, hinge=1.0)
    main_net, meta_net = nets
    found = torch.autograd.grad(loss_of(nets, only_hinge), meta_net.bias)[0]
    with torch.no_grad():
        image, text = main_net(FEATURES.images[PAIRS.image_rows], FEATURES.texts[PAIRS.text_rows])
        vectors = main_net.similarity_vector.pairwise(image.semantic, text.semantic)
        cosines = image.semantic @ text.semantic.T
        margins = adaptive_margin(meta_net(vectors, cosines).sigmoid().diagonal(), margin=0.2)
        excluded = no_negatives(PAIRS.image_rows) | no_negatives(PAIRS.text_rows)

        def with_bias_moved(step):
            corrected = (meta_net(vectors, cosines) + step).sigmoid()
            return hinge_loss(
                corrected, margins=margins, weights=WEIGHTS, excluded=excluded, hardest=True
            )

        difference = (with_bias_moved(1e-6) - with_bias_moved(-1e-6)) / 2e-6
    assert found.item() == pytest.approx(difference.item(), rel=1e-6)


def test_belief_of_zero_everywhere_is_finite(nets):
    loss = loss_of(nets, weights=torch.zeros(7, dtype=torch.float64))
    gradients = torch.autograd.grad(loss, list(nets[0].parameters()), allow_unused=True)
    assert loss.isfinite()
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)


def test_the_trusted_loss_adds_the_hardest_wrong_caption_of_every_other_pair(nets):
    main_net, meta_net = nets
    matched, mismatched = PAIRS, rows([6, 7, 8], [9, 10, 11])
    image, text = main_net(FEATURES.images[matched.image_rows], FEATURES.texts[matched.text_rows])

    def logit(i, j):
        return pair_logits(main_net, meta_net, image.semantic[i : i + 1], text.semantic[j : j + 1])

    hard = []
    for i in range(0, len(matched), 2):
        wrong = [
            j
            for j in range(len(matched))
            if matched.image_rows[j] != matched.image_rows[i]
            and matched.text_rows[j] != matched.text_rows[i]
        ]
        cosines = (image.semantic[i] @ text.semantic.T).tolist()
        hardest = max(wrong, key=cosines.__getitem__)
        hard.append(logit(i, hardest))
    other_image, other_text = main_net(
        FEATURES.images[mismatched.image_rows], FEATURES.texts[mismatched.text_rows]
    )
    others = pair_logits(main_net, meta_net, other_image.semantic, other_text.semantic)
    expected = meta_loss(
        torch.cat([logit(i, i) for i in range(len(matched))]), torch.cat([others, *hard])
    )
    found = trusted_loss(
        main_net,
        meta_net,
        features=FEATURES,
        matched=matched,
        mismatched=mismatched,
        hard_mismatched=True,
    )
    assert found.item() == pytest.approx(expected.item(), rel=1e-10)


@pytest.mark.parametrize(
    "matched",
    [
        pytest.param(rows([0, 0, 0], [0, 1, 2]), id="one image"),
        pytest.param(rows([0, 1, 2], [0, 0, 0]), id="one caption"),
    ],
)
def test_trusted_pairs_of_one_image_or_caption_have_no_hard_captions(nets, matched):
    mismatched = rows([6, 7], [9, 10])
    main_net, meta_net = nets

    def logits(pairs):
        image, text = main_net(FEATURES.images[pairs.image_rows], FEATURES.texts[pairs.text_rows])
        return pair_logits(main_net, meta_net, image.semantic, text.semantic)

    found = trusted_loss(
        *nets, features=FEATURES, matched=matched, mismatched=mismatched, hard_mismatched=True
    )
    expected = meta_loss(logits(matched), logits(mismatched))
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


def test_without_hard_mismatched_pairs_the_trusted_loss_is_that_of_the_pairs_given(nets):
    matched, mismatched = rows(range(8)), rows([8, 9, 10], [11, 12, 13])

    def logits(pairs):
        image, text = nets[0](FEATURES.images[pairs.image_rows], FEATURES.texts[pairs.text_rows])
        return pair_logits(*nets, image.semantic, text.semantic)

    plain, hard = (
        trusted_loss(
            *nets, features=FEATURES, matched=matched, mismatched=mismatched, hard_mismatched=hard
        ).item()
        for hard in (False, True)
    )
    expected = meta_loss(logits(matched), logits(mismatched))
    assert plain == pytest.approx(expected.item(), rel=1e-12)
    assert hard > plain


def test_a_plain_margin_stays_what_it_is_after_warm_up(nets):
    plain = replace(ALL_LOSSES, adaptive_margin=False)
    # A margin is at most γ, so adapting it can only lower the hinge.
    assert loss_of(nets) < loss_of(nets, plain)
    assert loss_of(nets, warm_up=True) == loss_of(nets, plain, warm_up=True)
    hinge = replace(NOTHING, hinge=1.0, adaptive_margin=False)
    image, text = nets[0](FEATURES.images[PAIRS.image_rows], FEATURES.texts[PAIRS.text_rows])
    vectors = nets[0].similarity_vector.pairwise(image.semantic, text.semantic)
    expected = hinge_loss(
        nets[1](vectors, image.semantic @ text.semantic.T).sigmoid(),
        margins=torch.full_like(WEIGHTS, 0.2),
        weights=WEIGHTS,
        excluded=no_negatives(PAIRS.image_rows) | no_negatives(PAIRS.text_rows),
        hardest=True,
    )
    assert loss_of(nets, hinge).item() == pytest.approx(expected.item(), rel=1e-12)


def drawn_pairs(pool, labelled, count, seed=0):
    trusted = TrustedPairs(matched=rows(range(900, 910)), mismatched=labelled)
    generator = torch.Generator().manual_seed(seed)
    drawn = mismatched_for(trusted, pool, count=count, generator=generator)
    return list(zip(drawn.image_rows.tolist(), drawn.text_rows.tolist(), strict=True))


NONE_LABELLED = rows(torch.arange(0))


@pytest.mark.parametrize(
    ("images", "texts"),
    [
        pytest.param([*range(20), *range(20)], range(40), id="images that come twice"),
        pytest.param(range(40), [*range(20), *range(20)], id="captions that come twice"),
    ],
)
def test_an_image_of_the_pool_never_meets_its_own_caption(images, texts):
    own = set(zip(images, texts, strict=True))
    for seed in range(50):
        drawn = drawn_pairs(rows(list(images), list(texts)), NONE_LABELLED, 64, seed)
        assert not own & set(drawn)
        assert 50 < len(drawn) <= 64
        assert {image for image, _ in drawn} <= set(images)
        assert {text for _, text in drawn} <= set(texts)


@pytest.mark.parametrize(("labelled", "expected"), [(0, 0), (3, 3), (100, 8)])
def test_pairs_labelled_by_a_person_take_at_most_half(labelled, expected):
    people = rows(range(1000, 1000 + labelled) if labelled else torch.arange(0))
    drawn = drawn_pairs(rows(range(500)), people, 16)
    from_people = [pair for pair in drawn if pair[0] >= 1000]
    assert len(from_people) == len(set(from_people)) == expected
    assert all(image == text for image, text in from_people)


def test_a_pool_of_one_image_gives_no_mismatched_pairs():
    assert drawn_pairs(rows([5, 5, 5], [1, 2, 3]), NONE_LABELLED, 8) == []
