"""The losses of the main network and of the meta network.

Every function takes whole batches and returns a scalar; weights, margins and masks come in as
tensors. Similarities are in [-1, 1] for cosines and in (0, 1) for corrected similarities.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from nccleaner.model.mfsr import Parts


def modality_loss(image: Parts, text: Parts, *, margin: float) -> Float[Tensor, ""]:
    """Modality parts gather around their modality's mean, and the two means part.

    L_mo = mean‖v_mo − v̄‖² + mean‖l_mo − l̄‖² + max(0, ⟨v̄, l̄⟩ + m); in words in mFSR section 3.2
    [P], in this form ours [O].
    """
    image_mean = image.modality.mean(dim=0)  # [d]
    text_mean = text.modality.mean(dim=0)  # [d]
    spread = (image.modality - image_mean).square().sum(dim=1).mean()
    spread = spread + (text.modality - text_mean).square().sum(dim=1).mean()
    return spread + F.relu(image_mean @ text_mean + margin)


def specific_loss(image: Parts, text: Parts) -> Float[Tensor, ""]:
    """The semantic and the specific part of one input hold different things.

    L_sp = mean cos²(v_se, v_sp) + mean cos²(l_se, l_sp). Squared [O]: a plain cosine is minimised
    by the opposite vector, which holds the same information.
    """
    of_image = (image.semantic * image.specific).sum(dim=1).square().mean()
    of_text = (text.semantic * text.specific).sum(dim=1).square().mean()
    return of_image + of_text


def no_negatives(image_ids: Int[Tensor, " b"]) -> Bool[Tensor, "b b"]:
    """Marks the pairs (i, j ≠ i) that show the same image and so are no negatives of each other."""
    same = image_ids[:, None] == image_ids[None, :]
    return same & ~torch.eye(len(image_ids), dtype=torch.bool, device=image_ids.device)


def info_nce_loss(
    cosines: Float[Tensor, "b b"],
    *,
    inverse_temperature: Float[Tensor, ""],
    weights: Float[Tensor, " b"],
    excluded: Bool[Tensor, "b b"],
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE with a weight for each pair [O].

    Args:
        cosines: c_ij of image i with caption j.
        inverse_temperature: Scale of the cosines.
        weights: In [0, 1], how much pair i is believed; 0 leaves it out as an anchor.
        excluded: Pairs (i, j) that are no negatives of each other.
    """
    logits = (cosines * inverse_temperature).masked_fill(excluded, -torch.inf)
    target = torch.arange(len(logits), device=logits.device)
    to_text = F.cross_entropy(logits, target, reduction="none")  # [b]
    to_image = F.cross_entropy(logits.T, target, reduction="none")  # [b]
    return (weights * (to_text + to_image)).sum() / (2 * weights.sum().clamp(min=1.0))


def adaptive_margin(similarities: Float[Tensor, " b"], *, margin: float) -> Float[Tensor, " b"]:
    """γ_i = γ p² / (p² + (1 − p)²), p the pair's own corrected similarity, without gradient [P].

    MSCN equation 9. The margin of the anchor pair serves both directions; the authors' code uses
    the negative's in one.
    """
    p = similarities.detach()
    return margin * p.square() / (p.square() + (1 - p).square())


def hinge_loss(
    similarities: Float[Tensor, "b b"],
    *,
    margins: Float[Tensor, " b"],
    weights: Float[Tensor, " b"],
    excluded: Bool[Tensor, "b b"],
    hardest: bool,
) -> Float[Tensor, ""]:
    """The ranking loss of VSE++ and MSCN (equation 8 [P]).

    Σ_i [γ_i + max_{j≠i} s_ij − s_ii]_+ + [γ_i + max_{j≠i} s_ji − s_ii]_+, as a weighted mean.

    Args:
        similarities: s_ij of image i with caption j.
        margins: γ_i.
        weights: In [0, 1], how much pair i is believed.
        excluded: Pairs (i, j) that are no negatives of each other.
        hardest: Take the hardest negative; the mean over negatives otherwise (warm-up: training
            from scratch on the hardest collapses under noise).
    """
    matched = similarities.diagonal()  # [b]
    negatives = ~(excluded | torch.eye(len(matched), dtype=torch.bool, device=matched.device))
    total = similarities.new_zeros(())
    for scores, usable in ((similarities, negatives), (similarities.T, negatives.T)):
        violation = F.relu(margins[:, None] + scores - matched[:, None]) * usable  # [b, b]
        if hardest:
            per_anchor = violation.amax(dim=1)
        else:
            per_anchor = violation.sum(dim=1) / usable.sum(dim=1).clamp(min=1)
        total = total + (weights * per_anchor).sum()
    return total / weights.sum().clamp(min=1.0)


def meta_loss(
    matched_logits: Float[Tensor, " m"], mismatched_logits: Float[Tensor, " k"]
) -> Float[Tensor, ""]:
    """Binary cross-entropy of corrected similarities on trusted pairs (MSCN equation 5 [P]).

    Both groups weigh the same, however many pairs each has.
    """
    of_matched = F.softplus(-matched_logits).mean()
    of_mismatched = F.softplus(mismatched_logits).mean()
    return (of_matched + of_mismatched) / 2
