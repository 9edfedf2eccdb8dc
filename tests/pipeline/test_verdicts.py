"""A trusted file that labels a random sample of the shards: part of it judges cut-offs."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from smallfit import tiny, write_csv

import nccleaner
from nccleaner.errors import TrustedError


@pytest.fixture(scope="module")
def fitted_on_sample(clipart, shards, tmp_path_factory):
    """A fit whose trusted file labels 120 pairs drawn at random, of which 40 are set aside."""
    folder = tmp_path_factory.mktemp("random-sample")
    keys = np.random.default_rng(0).permutation([row.key for row in clipart.rows])[:120]
    labels = write_csv(
        folder / "labels.csv", ["key", "label"], [(key, 1 - clipart.truth[key]) for key in keys]
    )
    config = tiny(trusted={"sample": 1 / 3})
    return nccleaner.fit(shards, meta=labels, run=folder / "run", config=config)


def read_labels(run, name):
    table = pq.read_table(run / "checkpoints" / f"{name}.parquet")
    return dict(zip(table["key"].to_pylist(), table["label"].to_pylist(), strict=True))


def test_a_sample_is_read_before_anything_is_scored(tmp_path):
    with pytest.raises(TrustedError, match="is not there"):
        nccleaner.purge(tmp_path / "no-run", sample=tmp_path / "no.csv")


def test_what_is_set_aside_is_in_the_pool_like_any_other_pair(fitted_on_sample, clipart):
    run = fitted_on_sample.run
    sample, trusted = read_labels(run, "sample"), read_labels(run, "trusted")

    assert fitted_on_sample.trusted["sample"] == len(sample) == 40
    assert len(trusted) == 80
    assert not set(sample) & set(trusted)
    assert sample == {key: 1 - clipart.truth[key] for key in sample}
    pool = pq.read_table(run / "checkpoints" / "pool.parquet")["key"].to_pylist()
    assert len(set(sample) - set(pool)) <= fitted_on_sample.exchanged
    assert len(set(sample) & set(pool)) > 20


def test_it_judges_the_cut_offs_of_its_shards(fitted_on_sample):
    summary = nccleaner.purge(fitted_on_sample.run).summary

    assert summary.evidence == "random_sample"
    assert "the labels of 40 pairs" in summary.mismatched_before.source


def test_of_other_shards_it_is_no_sample(fitted_on_sample, shards, tmp_path):
    others = tmp_path / "others"
    others.mkdir()
    for file in shards.glob("00001*"):
        shutil.copy(file, others)
    run, output = fitted_on_sample.run, tmp_path / "output"
    nccleaner.score(run, others, output=output)

    summary = nccleaner.purge(run, threshold=1.0, output=output).summary

    assert summary.evidence == "trusted_pairs"
    assert summary.kept == 0, "labels are of the shards of the fit alone"


def test_a_fit_without_a_sample_forgets_that_of_an_earlier_one(
    fitted_on_sample, shards, trusted_csv, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(fitted_on_sample.run, run)

    nccleaner.fit(shards, meta=trusted_csv, run=run, config=tiny())

    assert not (run / "checkpoints" / "sample.parquet").exists()
    assert nccleaner.purge(run).summary.evidence == "trusted_pairs"
