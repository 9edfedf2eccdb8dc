"""The run that scoring and purging are measured on is one that the commands take for finished."""

from __future__ import annotations

import shutil

import generated
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from generated import GeneratedRun, _write_zeros, make_samples
from sklearn.metrics import roc_auc_score

import nccleaner
from nccleaner.config import RunConfig
from nccleaner.identity import is_uid
from nccleaner.records import OK

PAIRS, SHARD = 500, 200


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three shards, the last of them smaller."""
    root = tmp_path_factory.mktemp("generated") / "run"
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generated, "SHARD_SAMPLES", SHARD)
        GeneratedRun(root, PAIRS, RunConfig()).write(features=True, scores=True)
    return root


@pytest.fixture
def run(made, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(made, copy)
    return copy


def read(folder):
    return pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("*.parquet")))


def test_made_up_scores_can_be_purged(run):
    summary = nccleaner.purge(run, keep_fraction=0.5, index=False).summary

    scores = read(run / "scores")
    pairs = sum(status == OK for status in scores["status"].to_pylist())
    assert summary.samples == len(scores) == PAIRS
    assert 0 < PAIRS - pairs == summary.dropped["undecodable_image"]
    assert abs(summary.kept - pairs / 2) < 20
    kept = read(run / "clean" / "manifest")
    assert kept["row"].to_pylist() == list(range(summary.kept))
    assert all(is_uid(uid) for uid in kept["uid"].to_pylist())
    assert summary.derived_uids == 0
    assert summary.good_lost.value > 0


def test_its_features_can_be_scored_and_tell_the_mismatched(run):
    shutil.rmtree(run / "scores")

    nccleaner.score(run)

    scores = read(run / "scores")
    drawn = [make_samples(number, size) for number, size in enumerate((SHARD, SHARD, 100))]
    matched = np.concatenate([samples.matched[samples.is_pair] for samples in drawn])
    found = scores["corrected_similarity"].drop_null().to_numpy()
    assert roc_auc_score(matched, found) > 0.9


def test_shards_differ_and_the_same_shard_is_the_same():
    first, again, other = make_samples(0, 50), make_samples(0, 50), make_samples(1, 50)

    assert first.columns.equals(again.columns)
    assert not set(first.columns["url"].to_pylist()) & set(other.columns["url"].to_pylist())


def test_features_that_take_no_space_are_as_many(made, tmp_path):
    filled = np.load(made / "features" / "00000" / "image.npy", mmap_mode="r")

    _write_zeros(tmp_path / "zeros.npy", filled.shape)

    zeros = np.load(tmp_path / "zeros.npy", mmap_mode="r")
    assert (zeros.shape, zeros.dtype) == (filled.shape, filled.dtype)
    assert filled.any()
    assert not zeros.any()
