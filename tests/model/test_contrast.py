from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from nccleaner.model import contrast as module
from nccleaner.model.contrast import Contrast

COUNT, REFERENCES, WIDTH = 60, 25, 8


def embeddings(count, seed):
    """Embeddings that rounding leaves as they are."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, WIDTH, generator=generator)).bfloat16().float()


@pytest.fixture(scope="module")
def references():
    """Of each image two references: its own captions."""
    images = embeddings(REFERENCES, 0).repeat_interleave(2, dim=0)
    return Contrast(
        images, embeddings(2 * REFERENCES, 1), torch.arange(REFERENCES).repeat_interleave(2)
    )


@pytest.fixture(scope="module")
def pairs(references):
    """References themselves, pairs of the same images, of the same captions, and of neither."""
    fresh = embeddings(COUNT, 2), embeddings(COUNT, 3), 1000 + torch.arange(COUNT)
    own = references.images[:10], references.texts[:10], references.identities[:10]
    other_caption = own[0], fresh[1][:10], own[2]
    other_image = fresh[0][:10], own[1], fresh[2][:10]
    parts = zip(own, other_caption, other_image, fresh, strict=True)
    return tuple(torch.cat(column) for column in parts)


def by_brute_force(references, images, texts, identities):
    """One pair and one alternative after the other, in float64."""
    odds = []
    for image, text, identity in zip(images.double(), texts.double(), identities, strict=True):
        own, row = float(image @ text), []
        for query, others, same in (
            (image, references.texts, text),
            (text, references.images, image),
        ):
            ratios = [
                math.exp(20 * (float(query @ other.double()) - own))
                for other, of in zip(others, references.identities, strict=True)
                if of != identity and not torch.equal(other.double(), same)
            ]
            row.append(-math.log(sum(ratios) / len(ratios)) if ratios else 0.0)
        odds.append(row)
    return torch.tensor(odds, dtype=torch.float64)


def test_it_is_what_a_look_at_each_alternative_gives(references, pairs):
    odds = references.of(*pairs)

    assert odds.dtype == torch.float32
    expected = by_brute_force(references, *pairs)
    torch.testing.assert_close(odds.double(), expected, atol=1e-4, rtol=1e-5)


def test_the_same_image_and_the_same_caption_are_no_alternatives():
    image, text = embeddings(2, 5)
    others = embeddings(2, 6)
    same_image = Contrast(image[None], others[:1], torch.tensor([7]))
    same_caption = Contrast(others[:1], text[None], torch.tensor([8]))
    stranger = Contrast(others[:1], others[1:], torch.tensor([8]))

    of_image, of_caption, of_stranger = (
        references.of(image[None], text[None], torch.tensor([7]))[0]
        for references in (same_image, same_caption, stranger)
    )

    assert of_image.tolist() == [0, 0]
    assert of_caption[0] == 0
    assert of_caption[1] == pytest.approx(20 * float(image @ text - text @ others[0]), abs=1e-5)
    assert (of_stranger != 0).all()


def test_rounding_changes_little():
    generator = torch.Generator().manual_seed(0)
    exact = [F.normalize(torch.randn(50, WIDTH, generator=generator)) for _ in range(4)]
    references = Contrast(exact[0], exact[1], torch.arange(50))
    identities = 100 + torch.arange(50)

    odds = references.of(exact[2], exact[3], identities)

    expected = by_brute_force(references, exact[2], exact[3], identities)
    torch.testing.assert_close(odds.double(), expected, atol=20 * 2**-7, rtol=0.0)


def test_where_there_is_no_alternative_it_says_nothing(references):
    rows = slice(0, 2)  # both captions of one image
    one = Contrast(references.images[rows], references.texts[rows], references.identities[rows])

    odds = one.of(one.images, one.texts, one.identities)

    assert torch.equal(odds, torch.zeros(2, 2))


def test_it_does_not_depend_on_portions(references, pairs, monkeypatch):
    at_once = references.of(*pairs)
    monkeypatch.setattr(module, "_BLOCK_ROWS", 7)

    torch.testing.assert_close(references.of(*pairs), at_once, atol=1e-5, rtol=1e-5)
    assert references.of(*(column[:0] for column in pairs)).shape == (0, 2)


def test_a_caption_that_suits_every_image_stands_out_less():
    """Two pairs of one cosine; the caption of the second is as near to all other images."""
    images = F.normalize(torch.eye(6)[:3] + 0.2)
    hub = F.normalize(torch.ones(1, 6))
    own = F.normalize(torch.eye(6)[:1] + 0.2)
    near = float(images[0] @ hub[0])
    direction = F.normalize(torch.eye(6)[5:6] - (torch.eye(6)[5:6] @ own.T) * own)
    specific = near * own + (1 - near**2) ** 0.5 * direction
    references = Contrast(images[1:], F.normalize(torch.eye(6)[1:3]), torch.tensor([1, 2]))

    odds = references.of(images[:1].expand(2, -1), torch.cat([specific, hub]), torch.tensor([0, 0]))

    assert odds[0, 0] == pytest.approx(float(odds[1, 0]), abs=0.05)  # after rounding
    assert odds[0, 1] > odds[1, 1] + 1
