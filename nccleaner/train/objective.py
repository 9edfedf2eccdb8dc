"""What is minimised: the main network's loss on noisy pairs, the meta loss on trusted ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nccleaner.model.losses import (
    adaptive_margin,
    hinge_loss,
    info_nce_loss,
    meta_loss,
    modality_loss,
    no_negatives,
    specific_loss,
)
from nccleaner.model.mfsr import MainNet, Parts
from nccleaner.model.mscn import MetaNet
from nccleaner.model.rows import Rows
from nccleaner.train.pairs import Features, Pairs, TrustedPairs
from nccleaner.train.world import ALONE, World

# λ_img L_G + λ_cap L_cap of the parts of images and captions.
ReconstructionLoss = Callable[[Parts, Parts, Pairs], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWeights:
    """Weight of each term of the main loss; 0 switches a term off.

    Attributes:
        info_nce: Symmetric InfoNCE on the cosines.
        hinge: Ranking by corrected similarity with a margin for each pair.
        modality: Modality parts gather by modality.
        specific: Semantic and specific parts differ.
        margin: γ of the hinge.
        adaptive_margin: Whether γ adapts to each pair after warm-up.
        modality_margin: m of the modality loss.
    """

    info_nce: float
    hinge: float
    modality: float
    specific: float
    margin: float
    adaptive_margin: bool
    modality_margin: float


class NoisyBatch(NamedTuple):
    """A batch of the pool.

    Attributes:
        features: The table that `pairs` points into.
        pairs: The pairs of the batch, on any device; those that are on the CPU, as they are drawn,
            keep nothing waiting for a GPU.
        weights: [b] in [0, 1], how much each pair is believed; where the networks are.
        warm_up: Plain margin and the mean over negatives, instead of adaptive and hardest.
    """

    features: Features
    pairs: Pairs
    weights: Float[Tensor, " b"]
    warm_up: bool


def main_loss(
    main_net: MainNet,
    meta_net: MetaNet,
    batch: NoisyBatch,
    *,
    loss_weights: LossWeights,
    reconstruction: ReconstructionLoss | None = None,
    world: World = ALONE,
) -> Float[Tensor, ""]:
    """L = λ_nce L_nce + λ_rank L_rank + λ_mo L_mo + λ_sp L_sp + reconstruction (METHOD 1 and 2).

    Args:
        main_net: The main network.
        meta_net: The meta network.
        batch: Pairs of the pool.
        loss_weights: Weights of the terms.
        reconstruction: Adds λ_img L_G + λ_cap L_cap; belief does not weigh it. Not for several
            processes.
        world: Divides the batch: what is returned is then the part of own rows in the loss.
    """
    device, rows = batch.weights.device, world.rows(len(batch.pairs))
    own = batch.pairs.take(rows.own)
    image, text = main_net(*batch.features.of(own, device=device), rows)
    texts = rows.gather(text.semantic)  # [n, d]
    cosines = image.semantic @ texts.T  # [b, n]
    pairs = batch.pairs.to(device)
    excluded = no_negatives(pairs.image_rows, rows) | no_negatives(pairs.text_rows, rows)
    loss: Tensor = cosines.new_zeros(())
    if loss_weights.info_nce:
        loss = loss + loss_weights.info_nce * info_nce_loss(
            cosines,
            inverse_temperature=main_net.inverse_temperature,
            weights=batch.weights,
            excluded=excluded,
            rows=rows,
        )
    if loss_weights.hinge:
        vectors = main_net.similarity_vector.pairwise(image.semantic, texts)  # [b, n, s]
        corrected = meta_net(vectors, cosines).sigmoid()  # [b, n]
        margins = torch.full_like(batch.weights[rows.own], loss_weights.margin)
        if loss_weights.adaptive_margin and not batch.warm_up:
            matched = corrected.diagonal(offset=rows.own.start)
            margins = adaptive_margin(matched, margin=loss_weights.margin)
        loss = loss + loss_weights.hinge * hinge_loss(
            corrected,
            margins=margins,
            weights=batch.weights,
            excluded=excluded,
            hardest=not batch.warm_up,
            rows=rows,
        )
    if loss_weights.modality:
        loss = loss + loss_weights.modality * modality_loss(
            image, text, margin=loss_weights.modality_margin, rows=rows
        )
    if loss_weights.specific:
        loss = loss + loss_weights.specific * specific_loss(image, text, rows=rows)
    if reconstruction is not None:
        loss = loss + reconstruction(image, text, own)
    return loss


def trusted_loss(
    main_net: MainNet,
    meta_net: MetaNet,
    *,
    features: Features,
    matched: Pairs,
    mismatched: Pairs,
    hard_mismatched: bool,
    world: World = ALONE,
) -> Float[Tensor, ""]:
    """L_meta: cross-entropy of corrected similarities on trusted pairs (METHOD 2).

    Args:
        main_net: The main network, or one after its virtual step.
        meta_net: The meta network.
        features: The table that the pairs point into.
        matched: Trusted matched pairs [m].
        mismatched: Pairs known or made to be mismatched [k].
        hard_mismatched: Whether every other pair of `matched` serves, with the highest-scoring
            wrong caption of the batch, as a mismatched pair too [O].
        world: Divides the pairs: what is returned is then the part of own rows in the loss.
    """
    device = meta_net.bias.device
    rows, other_rows = world.rows(len(matched)), world.rows(len(mismatched))
    image, text = main_net(*features.of(matched.take(rows.own), device=device), rows)
    other_image, other_text = main_net(
        *features.of(mismatched.take(other_rows.own), device=device), other_rows
    )
    images, texts = other_image.semantic, other_text.semantic
    count: int | Tensor = len(mismatched)
    usable = None
    if hard_mismatched:
        hard = _hardest(image.semantic, text.semantic, matched.to(device), rows)
        others = torch.ones(len(images), dtype=torch.bool, device=device)
        images, texts = torch.cat([images, hard.images]), torch.cat([texts, hard.texts])
        usable, count = torch.cat([others, hard.usable]), count + hard.total
    return meta_loss(
        pair_logits(main_net, meta_net, image.semantic, text.semantic),
        pair_logits(main_net, meta_net, images, texts),
        counts=(len(matched), count),
        usable=usable,
    )


def pair_logits(
    main_net: MainNet,
    meta_net: MetaNet,
    images: Float[Tensor, "n d"],
    texts: Float[Tensor, "n d"],
) -> Float[Tensor, " n"]:
    """Returns the logit of the corrected similarity of image i with caption i."""
    logits: Tensor = meta_net(
        main_net.similarity_vector.paired(images, texts), (images * texts).sum(dim=1)
    )
    return logits


class _Hard(NamedTuple):
    """Images with the highest-scoring wrong caption of the batch.

    Attributes:
        images: Of every other pair, counted over the whole batch.
        texts: Any caption where all are the image's own.
        usable: Whether there is a wrong one. All pairs stay: picking these would wait for them.
        total: How many are usable in the whole batch.
    """

    images: Float[Tensor, "h d"]
    texts: Float[Tensor, "h d"]
    usable: Bool[Tensor, " h"]
    total: Tensor


def _hardest(
    images: Float[Tensor, "b d"], texts: Float[Tensor, "b d"], pairs: Pairs, rows: Rows
) -> _Hard:
    same = pairs.image_rows[::2, None] == pairs.image_rows
    same = same | (pairs.text_rows[::2, None] == pairs.text_rows)  # [every other, m]
    usable = ~same.all(dim=1)
    every_other = slice(rows.own.start % 2, None, 2)  # of own rows
    own = slice((rows.own.start + 1) // 2, (rows.own.stop + 1) // 2)
    images, texts = images[every_other], rows.gather(texts)
    cosines = (images @ texts.T).detach().masked_fill(same[own], -torch.inf)  # [h, m]
    return _Hard(images, texts[cosines.argmax(dim=1)], usable[own], usable.sum())


def mismatched_for(
    trusted: TrustedPairs, pool: Pairs, *, count: int, generator: torch.Generator
) -> Pairs:
    """Draws mismatched pairs: a random image of the pool with a random caption of it [P].

    Trusted pairs that a person labelled mismatched take up to half of the places [O].

    Args:
        trusted: The meta part of the trusted pairs.
        pool: The noisy pool.
        count: How many to draw.
        generator: Source of randomness.

    Returns:
        At most `count` pairs: a draw that hits the image's own caption is left out.
    """
    labelled = len(trusted.mismatched)
    from_people = min(labelled, count // 2)
    chosen = trusted.mismatched.take(torch.randperm(labelled, generator=generator)[:from_people])
    drawn = torch.randint(len(pool), (2, count - from_people), generator=generator)
    image_rows, text_rows = pool.image_rows[drawn[0]], pool.text_rows[drawn[1]]
    # An image with its own caption, or one that reads the same, would teach that matched is
    # mismatched.
    wrong = (image_rows != pool.image_rows[drawn[1]]) & (text_rows != pool.text_rows[drawn[0]])
    return Pairs(
        torch.cat([chosen.image_rows, image_rows[wrong]]),
        torch.cat([chosen.text_rows, text_rows[wrong]]),
    )
