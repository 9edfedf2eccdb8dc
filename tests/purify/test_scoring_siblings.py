from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import rows
from scorers import COUNT, IDENTITIES, alone, believed, gather

from nccleaner.purify.fit_judge import fit_judge, with_siblings
from nccleaner.purify.heads import Prior
from nccleaner.purify.judge import Judges
from nccleaner.purify.scoring import Scorer
from nccleaner.purify.siblings import Siblings
from nccleaner.train.pairs import Features


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
    priors = [Prior(evidence.proportions())] * 2
    judge = fit_judge(
        known,
        evidence.similarity,
        ~moved.numpy(),
        pool_evidence=known,
        priors=priors,
        seed=0,
        noise_rate=0.25,
    )
    agreement = evidence.siblings.agreement(np.ones(COUNT))
    fitted = with_siblings(
        judge,
        known,
        agreement,
        pool_evidence=known,
        pool_agreement=agreement,
        priors=priors,
        seed=0,
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
