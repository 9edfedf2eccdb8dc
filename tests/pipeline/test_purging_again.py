"""`purge` where an earlier purge left files, whole or not."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from handmade import Listener
from runreading import read_keys, untrusted_scores

import nccleaner
from nccleaner.errors import RunError
from nccleaner.pipeline import division as module


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
    nccleaner.purge(run, threshold=0.4)
    first = contents_of(run / "clean")
    nccleaner.purge(run, threshold=0.4)
    assert contents_of(run / "clean") == first


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
