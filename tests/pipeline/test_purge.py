"""The rules of `purge`, on one fitted run."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from handmade import Listener
from smallfit import Warned, write_csv

import nccleaner
from nccleaner.errors import PrecisionError, RunError, TrustedError, UsageError
from nccleaner.pipeline import division as module
from nccleaner.purify.by_trusted import ByTrusted


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


def stats_of(folder):
    return {
        path.relative_to(folder): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.name != "summary.json"
    }


def contents_of(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith("keepset")
    }


def test_what_would_come_out_the_same_is_not_written_again(run):
    clean = run / "clean"
    nccleaner.purge(run, threshold=0.4)
    before = stats_of(clean)

    summary = nccleaner.purge(run, threshold=0.4).summary
    assert stats_of(clean) == before
    scores = np.array(sorted(untrusted_scores(run, "corrected_similarity").values()))
    between = float(scores[scores >= np.float32(0.4)][0])  # keeps the same pairs
    other = nccleaner.purge(run, threshold=between).summary

    assert stats_of(clean) == before
    assert other.cut_off.value == between
    assert (other.kept, other.dropped) == (summary.kept, summary.dropped)


def test_only_shards_from_the_first_change_on_are_written_again(run):
    clean = run / "clean"
    nccleaner.purge(run, threshold=0.0)
    last = sorted((run / "scores").glob("*.parquet"))[-1]
    table = pq.read_table(last)
    lowest = {
        key: score
        for key, score in untrusted_scores(run, "corrected_similarity").items()
        if key in set(table["key"].to_pylist())
    }
    others = untrusted_scores(run, "corrected_similarity").items() - lowest.items()
    threshold = float(np.nextafter(np.float32(min(lowest.values())), np.float32(1)))
    changes_others = any(score < threshold for _, score in others)
    before = stats_of(clean / "manifest")

    nccleaner.purge(run, threshold=threshold)

    changed = {path for path, stat in stats_of(clean / "manifest").items() if stat != before[path]}
    first = min(changed)
    assert {path for path in before if path >= first} == changed
    assert changes_others or changed == {last.relative_to(run / "scores")}


def test_an_interruption_anywhere_ends_in_the_same_files(run, monkeypatch):
    nccleaner.purge(run, threshold=0.7)
    expected = contents_of(run / "clean")
    write = module.write_manifest
    for survivors in range(2):
        nccleaner.purge(run, threshold=0.3)
        done = []

        def killed(*args, done=done, survivors=survivors, **kwargs):
            if len(done) == survivors:
                raise KeyboardInterrupt
            done.append(kwargs["shard"])
            return write(*args, **kwargs)

        monkeypatch.setattr(module, "write_manifest", killed)
        with pytest.raises(KeyboardInterrupt):
            nccleaner.purge(run, threshold=0.7)
        monkeypatch.undo()
        assert not (run / "clean" / "summary.json").exists()
        assert not (run / "clean" / "index").exists()
        between = stats_of(run / "clean" / "manifest")

        nccleaner.purge(run, threshold=0.7)

        assert contents_of(run / "clean") == expected
        after = stats_of(run / "clean" / "manifest")
        unchanged = {path.stem for path in between if between[path] == after[path]}
        assert unchanged == set(done)


def test_a_damaged_manifest_is_written_again(run):
    nccleaner.purge(run, threshold=0.4)
    expected = contents_of(run / "clean")
    for folder in ("manifest", "rejected"):
        path = sorted((run / "clean" / folder).glob("*.parquet"))[0]
        path.write_bytes(path.read_bytes()[:-20])
    foreign = run / "clean" / "manifest" / "another.parquet"
    foreign.write_bytes(b"left by an earlier purge of other shards")

    nccleaner.purge(run, threshold=0.4)

    assert contents_of(run / "clean") == expected


def test_without_indexes_those_of_another_purge_go(run):
    nccleaner.purge(run, threshold=0.4)
    index = run / "clean" / "index"
    assert index.exists()

    nccleaner.purge(run, threshold=0.6, index=False)
    assert not index.exists()
    assert len(nccleaner.KeepSet(run)) == len(np.load(run / "clean" / "uids.npy"))
    with pytest.raises(RunError):
        nccleaner.search(run, "a bird")

    nccleaner.index(run, kind="flat")
    nccleaner.purge(run, threshold=0.6, index=False)
    assert index.exists()  # it is of these very pairs


def test_scores_that_are_there_are_used_and_missing_ones_made(run):
    paths = sorted((run / "scores").glob("*.parquet"))
    before = paths[0].stat().st_mtime_ns, paths[1].read_bytes()
    paths[1].unlink()

    nccleaner.purge(run)

    assert paths[0].stat().st_mtime_ns == before[0]
    assert paths[1].read_bytes() == before[1]


def test_a_purge_into_a_folder_says_that_nothing_was_scored_there(run, tmp_path):
    listener = Listener()
    result = nccleaner.purge(run, index=False, output=tmp_path / "apart", reporter=listener)
    assert listener.notes[0].startswith(f"Nothing was scored into {tmp_path / 'apart'}")
    again = Listener()
    nccleaner.purge(run, index=False, output=tmp_path / "apart", reporter=again)
    assert not [note for note in again.notes if "Nothing was scored" in note]
    assert result.summary == nccleaner.purge(run, index=False).summary


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
    with pytest.raises(RunError, match="no finished purge"):
        nccleaner.KeepSet(run)

    nccleaner.purge(run, threshold=0.2)
    assert read_keys(run / "clean" / "manifest") == expected
    assert not list(run.rglob(".nccleaner-*"))


# Targets


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


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"threshold": 0.3, "keep_fraction": 0.5}, "Give one"),
        ({"threshold": 0.3, "target_precision": 0.9}, "Give one"),
        ({"threshold": 1.5}, "outside the range"),
        ({"threshold": float("nan")}, "outside the range"),
        ({"threshold": -0.1}, "outside the range"),
        ({"threshold": -1.1, "by": "similarity"}, "outside the range"),
        ({"threshold": 0.1, "by": "quality"}, "is no score"),
        ({"keep_fraction": 0.0}, "not in"),
        ({"keep_fraction": 1.1}, "not in"),
        ({"keep_fraction": float("nan")}, "not in"),
        ({"target_precision": 0.0}, "not between"),
        ({"target_precision": 1.0}, "not between"),
        ({"target_precision": 95.0}, "not between"),
    ],
)
def test_rules_that_make_no_sense_are_refused(run, arguments, named):
    with pytest.raises(UsageError, match=named):
        nccleaner.purge(run, **arguments)
