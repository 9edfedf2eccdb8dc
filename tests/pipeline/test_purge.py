"""The rules of `purge`, on one fitted run."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import nccleaner
from nccleaner.errors import RunError, UsageError
from nccleaner.pipeline import purge as module


@pytest.fixture(scope="module")
def run(fitted, tmp_path_factory):
    """A copy that the tests purge again and again."""
    copy = tmp_path_factory.mktemp("purged") / "run"
    shutil.copytree(fitted.run, copy)
    return copy


def read_keys(folder):
    return {
        key
        for path in folder.glob("*.parquet")
        for key in pq.read_table(path, columns=["key"])["key"].to_pylist()
    }


def untrusted_scores(run, column):
    """key → score of the samples that nobody labelled."""
    scores = pa.concat_tables(pq.read_table(path) for path in (run / "scores").glob("*.parquet"))
    trusted = pq.read_table(run / "checkpoints" / "trusted.parquet")["key"]
    free = scores.filter(pc.invert(pc.is_in(scores["key"], value_set=trusted.combine_chunks())))
    return dict(zip(free["key"].to_pylist(), free[column].to_numpy(), strict=True))


@pytest.mark.parametrize("by", ["corrected_similarity", "clean_probability", "similarity"])
def test_a_threshold_keeps_the_scores_that_reach_it(run, by):
    scores = untrusted_scores(run, by)
    threshold = float(sorted(scores.values())[60])  # itself a score: it is kept

    summary = nccleaner.purge(run, threshold=threshold, by=by).summary

    kept = read_keys(run / "clean" / "manifest")
    assert {key for key in scores if key in kept} == {
        key for key, score in scores.items() if score >= np.float32(threshold)
    }
    assert (summary.cut_off.column, summary.cut_off.rule) == (by, "threshold")
    assert summary.cut_off.value == threshold


def test_without_a_rule_the_clean_probability_decides(run):
    summary = nccleaner.purge(run).summary

    kept = read_keys(run / "clean" / "manifest")
    for key, probability in untrusted_scores(run, "clean_probability").items():
        assert (key in kept) == (probability > 0.5)
    assert summary.cut_off.rule == "meta_prior"


@pytest.mark.parametrize("fraction", [0.25, 0.6, 1.0])
def test_a_fraction_of_all_pairs_passes_the_cut_off(run, fraction):
    summary = nccleaner.purge(run, keep_fraction=fraction).summary

    scores = pa.concat_tables(pq.read_table(path) for path in (run / "scores").glob("*.parquet"))
    passing = (scores["corrected_similarity"].to_numpy() >= summary.cut_off.value).sum()
    assert abs(passing - fraction * len(scores)) <= 1
    assert summary.cut_off.rule == "keep_fraction"


@pytest.mark.parametrize("by", ["corrected_similarity", "clean_probability", "similarity"])
def test_trusted_pairs_are_kept_whatever_the_threshold(run, by, clipart):
    summary = nccleaner.purge(run, threshold=1.0, by=by).summary

    kept = read_keys(run / "clean" / "manifest")
    assert set(clipart.trusted) <= kept
    assert not set(clipart.mismatched(6)) & kept
    assert summary.kept + summary.dropped["mismatched"] == 240
    assert nccleaner.purge(run, threshold=0.0).summary.kept == 240 - 6


def test_another_cut_off_replaces_all_of_the_earlier_purge(run):
    many = nccleaner.purge(run, keep_fraction=0.8).summary.kept
    keep = nccleaner.KeepSet(run)
    few = nccleaner.purge(run, keep_fraction=0.2).summary.kept

    clean = run / "clean"
    assert few < many == len(keep)
    assert len(nccleaner.KeepSet(run)) == few == len(read_keys(clean / "manifest"))
    assert len(np.load(clean / "uids.npy")) == few
    assert pq.read_metadata(clean / "index" / "ids.parquet").num_rows == few
    assert json.loads((clean / "summary.json").read_text())["kept"] == few
    assert len(list(clean.glob("keepset-*.npy"))) == 1


def test_the_same_purge_writes_the_same_bytes(run):
    def read():
        folder = run / "clean"
        return {
            path.relative_to(folder): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and not path.name.startswith("keepset")
        }

    nccleaner.purge(run, threshold=0.4)
    first = read()
    nccleaner.purge(run, threshold=0.4)
    assert read() == first


def test_scores_that_are_there_are_used_and_missing_ones_made(run):
    paths = sorted((run / "scores").glob("*.parquet"))
    before = paths[0].stat().st_mtime_ns, paths[1].read_bytes()
    paths[1].unlink()

    nccleaner.purge(run)

    assert paths[0].stat().st_mtime_ns == before[0]
    assert paths[1].read_bytes() == before[1]


def test_a_purge_that_is_interrupted_is_done_again(run, monkeypatch):
    nccleaner.purge(run, threshold=0.2)
    expected = read_keys(run / "clean" / "manifest")
    write, calls = module.write_manifest, []

    def killed(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(*args, **kwargs)

    monkeypatch.setattr(module, "write_manifest", killed)
    with pytest.raises(KeyboardInterrupt):
        nccleaner.purge(run, threshold=0.9)
    monkeypatch.undo()
    assert not (run / "clean" / "summary.json").exists()
    with pytest.raises(RunError, match="nccleaner purge"):
        nccleaner.search(run, "a bird")

    nccleaner.purge(run, threshold=0.2)
    assert read_keys(run / "clean" / "manifest") == expected
    assert not list(run.rglob(".nccleaner-*"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"threshold": 0.3, "keep_fraction": 0.5}, "Give one"),
        ({"threshold": 1.5}, "outside the range"),
        ({"threshold": float("nan")}, "outside the range"),
        ({"threshold": -0.1}, "outside the range"),
        ({"threshold": -1.1, "by": "similarity"}, "outside the range"),
        ({"threshold": 0.1, "by": "quality"}, "is no score"),
        ({"keep_fraction": 0.0}, "not in"),
        ({"keep_fraction": 1.1}, "not in"),
        ({"keep_fraction": float("nan")}, "not in"),
    ],
)
def test_rules_that_make_no_sense_are_refused(run, arguments, named):
    with pytest.raises(UsageError, match=named):
        nccleaner.purge(run, **arguments)
