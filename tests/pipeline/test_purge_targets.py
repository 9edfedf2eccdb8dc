"""The targets of `purge`, and its estimates from trusted pairs or a labelled random sample."""

from __future__ import annotations

import numpy as np
import pytest
from runreading import read_keys, untrusted_scores
from smallfit import Warned, write_csv

import nccleaner
from nccleaner.errors import PrecisionError, TrustedError
from nccleaner.purify.by_trusted import ByTrusted


def test_a_target_is_kept_to_or_refused(run, clipart):
    summary = nccleaner.purge(run, target_precision=0.5).summary

    assert summary.cut_off.rule == "target_precision"
    assert summary.promise.bound >= summary.promise.target == 0.5
    assert summary.promise.level == 0.95
    kept = read_keys(run / "clean" / "manifest")
    for key, score in untrusted_scores(run, "corrected_similarity").items():
        assert (key in kept) == (score >= np.float32(summary.cut_off.value))
    assert np.mean([clipart.truth[key] for key in kept]) < 0.5


def test_a_target_that_cannot_be_promised_leaves_the_last_purge(run):
    before = nccleaner.purge(run, threshold=0.4).summary

    with pytest.raises(PrecisionError, match="The 96 trusted pairs show no more than"):
        nccleaner.purge(run, target_precision=0.995)

    assert len(nccleaner.KeepSet(run)) == before.kept


def test_ten_cut_offs_say_what_they_would_do(run):
    summary = nccleaner.purge(run, keep_fraction=0.5).summary

    assert summary.evidence == "trusted_pairs"
    values = [choice.value for choice in summary.cut_offs]
    assert values == sorted(set(values))
    assert len(values) == 10
    for choice in (summary.cut_offs[0], summary.cut_offs[6]):
        assert nccleaner.purge(run, threshold=choice.value).summary.kept == choice.kept
    assert summary.cut_offs[0].kept == 240 - 6
    assert summary.cut_offs[0].recall.value == pytest.approx(1)


# A labelled random sample


def write_sample(path, clipart, keys):
    return write_csv(path, ["key", "label"], [(key, 1 - clipart.truth[key]) for key in keys])


@pytest.fixture(scope="module")
def sample(clipart, tmp_path_factory):
    """60 pairs that are not trusted, drawn at random, and their file."""
    trusted = {*clipart.trusted, *clipart.mismatched(6)}
    free = [row.key for row in clipart.rows if row.key not in trusted]
    keys = np.random.default_rng(1).permutation(free)[:60].tolist()
    return keys, write_sample(tmp_path_factory.mktemp("sample") / "sample.csv", clipart, keys)


def test_a_sample_is_what_estimates_rest_on(run, clipart, sample):
    keys, path = sample
    scores = untrusted_scores(run, "corrected_similarity")
    good = [scores[key] for key in keys if not clipart.truth[key]]

    summary = nccleaner.purge(run, threshold=0.5, sample=path).summary

    assert summary.evidence == "random_sample"
    assert "60 pairs drawn at random" in summary.recall.source
    # Of the good pairs those that are trusted or in the sample are kept in any case.
    rest = 240 - 96 - 60
    others = rest * len(good) / 60
    known = 90 + len(good)
    assert summary.recall.value == pytest.approx(
        (np.mean(np.array(good) >= 0.5) * others + known) / (others + known)
    )
    assert summary.mismatched_before.value == pytest.approx(
        (rest * (1 - len(good) / 60) + 6 + 60 - len(good)) / 240
    )


def test_a_sample_says_what_its_own_pairs_are(run, clipart, sample):
    keys, path = sample

    nccleaner.purge(run, threshold=1.0, sample=path)
    kept = read_keys(run / "clean" / "manifest")
    nccleaner.purge(run, threshold=0.0, sample=path)
    rejected = read_keys(run / "clean" / "rejected")

    assert {key for key in keys if not clipart.truth[key]} <= kept
    assert {key for key in keys if clipart.truth[key]} <= rejected
    assert len(kept) == 90 + sum(not clipart.truth[key] for key in keys)


def test_a_target_can_rest_on_a_sample(run, sample):
    summary = nccleaner.purge(run, target_precision=0.6, sample=sample[1]).summary

    assert summary.evidence == "random_sample"
    assert summary.promise.bound >= 0.6
    with pytest.raises(PrecisionError, match="The 60 labels of the random sample"):
        nccleaner.purge(run, target_precision=0.99, sample=sample[1])


def test_trusted_pairs_of_the_fit_are_no_sample(run, clipart, tmp_path, sample):
    path = write_sample(tmp_path / "sample.csv", clipart, [*clipart.trusted[:5], *sample[0][:40]])
    reporter = Warned()

    summary = nccleaner.purge(run, sample=path, reporter=reporter).summary

    assert "40 pairs drawn" in summary.recall.source
    assert "5 were trusted pairs of the fit" in reporter.warnings[0]
    only_trusted = write_sample(tmp_path / "trusted.csv", clipart, clipart.trusted[:30])
    with pytest.raises(TrustedError, match="30 were trusted pairs of the fit"):
        nccleaner.purge(run, sample=only_trusted)


def test_estimates_that_the_scores_contradict_are_doubted(run, monkeypatch):
    reporter = Warned()
    before = nccleaner.purge(run, threshold=0.5, reporter=reporter).summary
    monkeypatch.setattr(ByTrusted, "is_contradicted", lambda self: True)
    doubted = nccleaner.purge(run, threshold=0.5, reporter=reporter).summary

    assert "do not hold" not in before.mismatched_before.source
    assert "do not hold" in doubted.mismatched_before.source
    assert [warning[:30] for warning in reporter.warnings] == ["Do not trust the estimates: mo"]


def test_a_sample_of_good_pairs_alone_is_doubted(run, clipart, tmp_path, sample):
    good = [key for key in sample[0] if not clipart.truth[key]][:30]
    reporter = Warned()

    nccleaner.purge(run, sample=sample[1], reporter=reporter)
    assert not reporter.warnings
    nccleaner.purge(
        run, sample=write_sample(tmp_path / "good.csv", clipart, good), reporter=reporter
    )

    assert "None of the 30 pairs of the random sample is labelled 0" in reporter.warnings[0]
