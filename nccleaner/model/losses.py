"""The losses of the main network and of the meta network.

Every function returns a scalar; weights, margins and masks come in as tensors. Similarities are in
[-1, 1] for cosines and in (0, 1) for corrected similarities.

A batch may be divided among processes. Each then gives its own rows, b of the n in the batch, and
says which by `rows`; what is returned is its part of the loss, and the loss the sum of all parts.
Without `rows` a process has all, b = n.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from nccleaner.model.mfsr import Parts
from nccleaner.model.rows import Rows


def modality_loss(
    image: Parts, text: Parts, *, margin: float, rows: Rows | None = None
) -> Float[Tensor, ""]:
    """Modality parts gather around their modality's mean, and the two means part.

    L_mo = mean‖v_mo − v̄‖² + mean‖l_mo − l̄‖² + max(0, ⟨v̄, l̄⟩ + m); in words in mFSR section 3.2
    [P], in this form ours [O].
    """
    rows = rows or Rows(len(image.modality))
    image_mean = rows.mean(image.modality)  # [d]
    text_mean = rows.mean(text.modality)  # [d]
    spread = rows.part_of_mean((image.modality - image_mean).square().sum(dim=1))
    spread = spread + rows.part_of_mean((text.modality - text_mean).square().sum(dim=1))
    # All processes have the same means: each contributes its share of what these alone decide.
    return spread + F.relu(image_mean @ text_mean + margin) / rows.size


def specific_loss(image: Parts, text: Parts, *, rows: Rows | None = None) -> Float[Tensor, ""]:
    """The semantic and the specific part of one input hold different things.

    L_sp = mean cos²(v_se, v_sp) + mean cos²(l_se, l_sp). Squared [O]: a plain cosine is minimised
    by the opposite vector, which holds the same information.
    """
    rows = rows or Rows(len(image.semantic))
    of_image = rows.part_of_mean((image.semantic * image.specific).sum(dim=1).square())
    of_text = rows.part_of_mean((text.semantic * text.specific).sum(dim=1).square())
    return of_image + of_text


def no_negatives(image_ids: Int[Tensor, " n"], rows: Rows | None = None) -> Bool[Tensor, "b n"]:
    """Marks the pairs (i, j ≠ i) that show the same image and so are no negatives of each other.

    Args:
        image_ids: Of the whole batch.
        rows: Which rows i are wanted; None: all.
    """
    rows = rows or Rows(len(image_ids))
    return (image_ids[rows.own, None] == image_ids) & ~_matched(rows, image_ids.device)


def info_nce_loss(
    cosines: Float[Tensor, "b n"],
    *,
    inverse_temperature: Float[Tensor, ""],
    weights: Float[Tensor, " n"],
    excluded: Bool[Tensor, "b n"],
    rows: Rows | None = None,
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE with a weight for each pair [O].

    Args:
        cosines: c_ij of image i with caption j.
        inverse_temperature: Scale of the cosines.
        weights: In [0, 1], how much each pair of the batch is believed; 0 leaves it out as an
            anchor.
        excluded: Pairs (i, j) that are no negatives of each other.
        rows: Which images i these are; the captions j are those of the whole batch.
    """
    rows = rows or Rows(len(weights))
    logits = (cosines * inverse_temperature).masked_fill(excluded, -torch.inf)
    target = torch.arange(rows.count, device=logits.device)[rows.own]
    to_text = F.cross_entropy(logits, target, reduction="none")  # [b]
    to_image = F.cross_entropy(rows.transpose(logits), target, reduction="none")  # [b]
    believed = 2 * weights.sum().clamp(min=1.0)
    return (weights[rows.own] * (to_text + to_image)).sum() / believed


def adaptive_margin(similarities: Float[Tensor, " b"], *, margin: float) -> Float[Tensor, " b"]:
    """γ_i = γ p² / (p² + (1 − p)²), p the pair's own corrected similarity, without gradient [P].

    MSCN equation 9. The margin of the anchor pair serves both directions; the authors' code uses
    the negative's in one.
    """
    p = similarities.detach()
    return margin * p.square() / (p.square() + (1 - p).square())


def hinge_loss(
    similarities: Float[Tensor, "b n"],
    *,
    margins: Float[Tensor, " b"],
    weights: Float[Tensor, " n"],
    excluded: Bool[Tensor, "b n"],
    hardest: bool,
    rows: Rows | None = None,
) -> Float[Tensor, ""]:
    """The ranking loss of VSE++ and MSCN (equation 8 [P]).

    Σ_i [γ_i + max_{j≠i} s_ij − s_ii]_+ + [γ_i + max_{j≠i} s_ji − s_ii]_+, as a weighted mean.

    Args:
        similarities: s_ij of image i with caption j.
        margins: γ_i of own rows.
        weights: In [0, 1], how much each pair of the batch is believed.
        excluded: Pairs (i, j) that are no negatives of each other.
        hardest: Take the hardest negative; the mean over negatives otherwise (warm-up: training
            from scratch on the hardest collapses under noise).
        rows: Which images i these are; the captions j are those of the whole batch.
    """
    rows = rows or Rows(len(weights))
    matched = similarities.diagonal(offset=rows.own.start)  # [b]
    # Whether two pairs are negatives of each other does not depend on the direction.
    negatives = ~(excluded | _matched(rows, matched.device))  # [b, n]
    total = similarities.new_zeros(())
    for scores in (similarities, rows.transpose(similarities)):
        violation = F.relu(margins[:, None] + scores - matched[:, None]) * negatives  # [b, n]
        if hardest:
            per_anchor = violation.amax(dim=1)
        else:
            per_anchor = violation.sum(dim=1) / negatives.sum(dim=1).clamp(min=1)
        total = total + (weights[rows.own] * per_anchor).sum()
    return total / weights.sum().clamp(min=1.0)


def meta_loss(
    matched_logits: Float[Tensor, " m"],
    mismatched_logits: Float[Tensor, " k"],
    *,
    counts: tuple[int, int | Tensor] | None = None,
    usable: Bool[Tensor, " k"] | None = None,
) -> Float[Tensor, ""]:
    """Binary cross-entropy of corrected similarities on trusted pairs (MSCN equation 5 [P]).

    Both groups weigh the same, however many pairs each has.

    Args:
        matched_logits: Of matched pairs.
        mismatched_logits: Of mismatched ones.
        counts: How many of either kind the whole batch has; None: those given.
        usable: Which of the mismatched pairs count; None: all.
    """
    matched, mismatched = counts or (len(matched_logits), len(mismatched_logits))
    each = F.softplus(mismatched_logits)
    of_matched = F.softplus(-matched_logits).sum() / matched
    of_mismatched = (each if usable is None else each * usable).sum() / mismatched
    return (of_matched + of_mismatched) / 2


def _matched(rows: Rows, device: torch.device) -> Bool[Tensor, "b n"]:
    """Marks the pairs (i, i)."""
    every = torch.arange(rows.count, device=device)
    return every[rows.own, None] == every
