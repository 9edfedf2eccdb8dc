from __future__ import annotations

import math

import pytest
import torch
from networks import random_parts

from nccleaner.model.losses import (
    adaptive_margin,
    hinge_loss,
    info_nce_loss,
    meta_loss,
    modality_loss,
    no_negatives,
    specific_loss,
)

SIZE = 6


def drawn(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SIMILARITIES = drawn(SIZE, SIZE)
WEIGHTS = drawn(SIZE, seed=1)
MARGINS = 0.2 * drawn(SIZE, seed=2)
IMAGE_IDS = torch.tensor([0, 1, 0, 2, 3, 1])
EXCLUDED = no_negatives(IMAGE_IDS)
SCALE = torch.tensor(7.0, dtype=torch.float64)


def hinge(similarities=SIMILARITIES, *, hardest=True, **changes):
    arguments = {"margins": MARGINS, "weights": WEIGHTS, "excluded": EXCLUDED} | changes
    return hinge_loss(similarities, hardest=hardest, **arguments)


def info_nce(cosines=SIMILARITIES, **changes):
    arguments = {"inverse_temperature": SCALE, "weights": WEIGHTS, "excluded": EXCLUDED} | changes
    return info_nce_loss(cosines, **arguments)


def negatives_of(i, excluded):
    return [j for j in range(SIZE) if j != i and not excluded[i, j]]


def naive_hinge(s, *, hardest):
    total = 0.0
    for i in range(SIZE):
        others = negatives_of(i, EXCLUDED)
        for scores in ([s[i, j] for j in others], [s[j, i] for j in others]):
            violations = [max(0.0, float(MARGINS[i] + score - s[i, i])) for score in scores]
            of_anchor = max(violations) if hardest else sum(violations) / len(violations)
            total += float(WEIGHTS[i]) * of_anchor
    return total / float(WEIGHTS.sum())


def naive_info_nce(c):
    total = 0.0
    for i in range(SIZE):
        candidates = [i, *negatives_of(i, EXCLUDED)]
        for scores in ([c[i, j] for j in candidates], [c[j, i] for j in candidates]):
            exponentials = [math.exp(SCALE * score) for score in scores]
            total -= float(WEIGHTS[i]) * math.log(exponentials[0] / sum(exponentials))
    return total / (2 * float(WEIGHTS.sum()))


@pytest.mark.parametrize("hardest", [True, False])
def test_hinge_is_the_sum_over_anchors_and_directions(hardest):
    assert hinge(hardest=hardest).item() == pytest.approx(
        naive_hinge(SIMILARITIES, hardest=hardest), rel=1e-12
    )


def test_info_nce_is_the_log_of_the_share_of_the_own_partner():
    assert info_nce().item() == pytest.approx(naive_info_nce(SIMILARITIES), rel=1e-12)


def test_info_nce_does_not_overflow():
    loss = info_nce(inverse_temperature=torch.tensor(1e4, dtype=torch.float64))
    assert loss.isfinite()


def test_modality_gathers_by_modality_and_parts_the_means():
    image, text = random_parts(SIZE, 4), random_parts(SIZE, 4, seed=1)
    means = [
        [sum(row[d] for row in part.modality.tolist()) / SIZE for d in range(4)]
        for part in (image, text)
    ]
    spread = sum(
        sum((row[d] - mean[d]) ** 2 for d in range(4)) / SIZE
        for part, mean in zip((image, text), means, strict=True)
        for row in part.modality.tolist()
    )
    between = sum(a * b for a, b in zip(*means, strict=True))
    for margin in (0.0, 0.7):
        expected = spread + max(0.0, between + margin)
        assert modality_loss(image, text, margin=margin).item() == pytest.approx(expected)


def test_modality_is_least_where_each_modality_is_one_point_and_they_are_opposite():
    point = torch.zeros(SIZE, 4, dtype=torch.float64)
    point[:, 0] = 1
    image, text = random_parts(SIZE, 4), random_parts(SIZE, 4, seed=1)
    apart = modality_loss(
        image._replace(modality=point), text._replace(modality=-point), margin=0.5
    )
    together = modality_loss(
        image._replace(modality=point), text._replace(modality=point), margin=0.5
    )
    assert (apart.item(), together.item()) == (0.0, 1.5)


def test_specific_is_the_mean_square_of_the_cosines():
    image, text = random_parts(SIZE, 4), random_parts(SIZE, 4, seed=1)
    expected = 0.0
    for parts in (image, text):
        for semantic, specific in zip(
            parts.semantic.tolist(), parts.specific.tolist(), strict=True
        ):
            cosine = sum(a * b for a, b in zip(semantic, specific, strict=True))
            expected += cosine**2 / SIZE
    assert specific_loss(image, text).item() == pytest.approx(expected)


@pytest.mark.parametrize("sign", [1, -1])
def test_an_opposite_specific_part_costs_as_much_as_an_equal_one(sign):
    parts = random_parts(SIZE, 4)
    parts = parts._replace(specific=sign * parts.semantic)
    assert specific_loss(parts, parts).item() == pytest.approx(2.0)


def test_meta_loss_is_the_cross_entropy_with_both_groups_alike():
    matched, mismatched = 4 * drawn(5) - 2, 4 * drawn(9, seed=1) - 2
    of_matched = sum(-math.log(1 / (1 + math.exp(-x))) for x in matched) / 5
    of_mismatched = sum(-math.log(1 - 1 / (1 + math.exp(-x))) for x in mismatched) / 9
    loss = meta_loss(matched, mismatched).item()
    assert loss == pytest.approx((of_matched + of_mismatched) / 2)
    assert meta_loss(matched, mismatched.repeat(3)).item() == pytest.approx(loss)


def test_pairs_of_the_same_image_are_no_negatives():
    expected = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    expected[0, 2] = expected[2, 0] = expected[1, 5] = expected[5, 1] = True
    assert torch.equal(EXCLUDED, expected)
    changed = SIMILARITIES.clone()
    changed[EXCLUDED] = 100.0
    for loss in (hinge, lambda s: hinge(s, hardest=False), info_nce):
        assert torch.equal(loss(changed), loss(SIMILARITIES))


@pytest.mark.parametrize("loss", [hinge, lambda **kw: hinge(hardest=False, **kw), info_nce])
def test_an_anchor_of_weight_0_counts_as_if_it_were_only_a_negative(loss):
    per_anchor = []
    for i in range(SIZE):
        weights = torch.zeros(SIZE, dtype=torch.float64)
        weights[i] = 1
        per_anchor.append(loss(weights=weights).item())
    mixed = torch.tensor([1.0, 0.0, 0.5, 0.0, 1.0, 0.0], dtype=torch.float64)
    expected = (per_anchor[0] + 0.5 * per_anchor[2] + per_anchor[4]) / 2.5
    assert loss(weights=mixed).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", [hinge, info_nce])
def test_weights_of_zero_everywhere_give_no_loss_and_no_gradient(loss):
    similarities = SIMILARITIES.clone().requires_grad_()
    value = loss(similarities, weights=torch.zeros(SIZE, dtype=torch.float64))
    value.backward()
    assert value.item() == 0
    assert torch.equal(similarities.grad, torch.zeros(SIZE, SIZE, dtype=torch.float64))


@pytest.mark.parametrize("loss", [hinge, info_nce])
def test_a_batch_of_one_image_is_finite(loss):
    similarities = SIMILARITIES.clone().requires_grad_()
    value = loss(similarities, excluded=no_negatives(torch.zeros(SIZE, dtype=torch.int64)))
    value.backward()
    assert value.item() == 0
    assert similarities.grad.isfinite().all()


@pytest.mark.parametrize("loss", [hinge, info_nce])
def test_the_order_of_the_batch_and_the_scale_of_the_weights_do_not_matter(loss):
    order = torch.randperm(SIZE, generator=torch.Generator().manual_seed(3))
    moved = loss(
        SIMILARITIES[order][:, order],
        weights=WEIGHTS[order],
        excluded=EXCLUDED[order][:, order],
        **({"margins": MARGINS[order]} if loss is hinge else {}),
    )
    assert moved.item() == pytest.approx(loss().item(), rel=1e-12)
    assert loss(weights=10 * WEIGHTS).item() == pytest.approx(loss().item(), rel=1e-12)


@pytest.mark.parametrize("loss", [hinge, info_nce])
def test_both_directions_count_alike(loss):
    assert loss(SIMILARITIES.T).item() == pytest.approx(loss(SIMILARITIES).item(), rel=1e-12)


def test_cosines_and_temperature_scale_against_each_other():
    scaled = info_nce(SIMILARITIES / 5, inverse_temperature=5 * SCALE)
    assert scaled.item() == pytest.approx(info_nce().item(), rel=1e-12)


def test_only_differences_of_similarities_matter():
    for loss in (hinge, info_nce):
        assert loss(SIMILARITIES + 0.4).item() == pytest.approx(loss().item(), rel=1e-12)


@pytest.mark.parametrize("hardest", [True, False])
def test_the_anchors_margin_serves_both_directions(hardest):
    weights = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    alike = torch.zeros(SIZE, SIZE, dtype=torch.float64)
    loss = hinge(alike, weights=weights, hardest=hardest)
    assert loss.item() == pytest.approx(2 * MARGINS[1].item())


def test_adaptive_margin_at_0_half_and_1():
    margins = adaptive_margin(torch.tensor([0.0, 0.5, 1.0]), margin=0.2)
    assert margins.tolist() == pytest.approx([0.0, 0.1, 0.2])


def test_adaptive_margin_grows_with_the_similarity_and_passes_no_gradient():
    p = torch.linspace(0, 1, 101, requires_grad=True)
    margins = adaptive_margin(p, margin=0.2)
    assert (margins.diff() > 0).all()
    assert not margins.requires_grad


def test_gradients_agree_with_finite_differences():
    similarities = SIMILARITIES.clone().requires_grad_()
    scale = SCALE.clone().requires_grad_()
    weights = WEIGHTS.clone().requires_grad_()
    check = torch.autograd.gradcheck
    assert check(lambda s, w: hinge(s, weights=w), (similarities, weights))
    assert check(lambda s, w: hinge(s, weights=w, hardest=False), (similarities, weights))
    assert check(lambda c, t: info_nce(c, inverse_temperature=t), (similarities, scale))
    assert check(meta_loss, (similarities[0], similarities[1]))
    parts = random_parts(SIZE, 4)

    def separation(first, second):
        image = parts._replace(modality=first, semantic=second)
        text = parts._replace(modality=second, specific=first)
        return modality_loss(image, text, margin=1.0) + specific_loss(image, text)

    other = random_parts(SIZE, 4, seed=1).modality
    assert check(separation, (parts.modality.requires_grad_(), other.requires_grad_()))


def test_second_derivatives_of_info_nce_pass_the_mask():
    similarities = SIMILARITIES.clone().requires_grad_()
    assert torch.autograd.gradgradcheck(info_nce, (similarities,))
