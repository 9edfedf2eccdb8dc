"""`score` and `purge` of other shards than those of the fit, and what a run refuses."""

from __future__ import annotations

import shutil

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from builders import write_parquet_shard, write_webdataset_shard

import nccleaner
from nccleaner.errors import RunError, ShardError
from nccleaner.purify.scoring import Scorer


@pytest.fixture(scope="module")
def run(fitted, tmp_path_factory):
    copy = tmp_path_factory.mktemp("scored") / "run"
    shutil.copytree(fitted.run, copy)
    return copy


@pytest.fixture(scope="module")
def others(clipart, tmp_path_factory):
    """Shards with the names of those of the fit, of another kind; the second has no pair."""
    folder = tmp_path_factory.mktemp("others") / "shards"
    write_parquet_shard(folder, "00000", clipart.rows[:30])
    write_parquet_shard(folder, "00001", [type(r)(r.key, None, r.image) for r in clipart.rows[:3]])
    return folder


def mtimes(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_other_shards_of_the_same_names_are_refused(run, others):
    before = mtimes(run)

    with pytest.raises(RunError, match="--output"):
        nccleaner.score(run, others)

    assert mtimes(run) == before


def test_other_shards_have_a_folder_of_their_own(run, others, tmp_path, clipart):
    before = mtimes(run)
    output = tmp_path / "other"

    result = nccleaner.score(run, others, output=output)
    purged = nccleaner.purge(run, output=output, keep_fraction=0.5)

    assert mtimes(run) == before
    assert result.folder == output
    assert (result.reading.samples, result.reading.pairs) == (33, 30)
    scores = pq.read_table(output / "scores" / "00000.parquet")
    assert not any(scores["fitted"].to_pylist())
    assert purged.summary.samples == 33
    source = purged.summary.mismatched_before.source
    assert "the scores of held-out ones for the noise rate, held-out ones for" in source
    assert purged.summary.dropped["empty_caption"] == 3
    # Nobody labelled pairs of these shards: keys that are trusted elsewhere mean nothing here.
    assert abs(purged.summary.kept - 15) <= 1
    empty = pq.read_table(output / "scores" / "00001.parquet")
    assert empty["status"].to_pylist() == ["empty_caption"] * 3
    assert empty["similarity"].null_count == 3
    hits = nccleaner.search(run, "a bird", count=100, output=output)
    assert len(hits) == purged.summary.kept
    captions = {row.key: row.caption for row in clipart.rows}
    assert all(hit.caption == captions[hit.key] for hit in hits)


def test_similarity_and_evidence_of_a_pair_do_not_depend_on_its_shard(run, others, tmp_path):
    nccleaner.score(run, others, output=tmp_path)

    fitted = {r["key"]: r for r in pq.read_table(run / "scores" / "00000.parquet").to_pylist()}
    # In other batches the encoders sum in another order, and round to float16 otherwise.
    for row in pq.read_table(tmp_path / "scores" / "00000.parquet").to_pylist():
        same = fitted[row["key"]]
        names = ["similarity"] if same["fitted"] else ["similarity", "corrected_similarity"]
        for name in names:
            assert row[name] == pytest.approx(same[name], abs=1e-2)


def test_shards_of_other_names_join_those_of_the_run(run, clipart, tmp_path):
    write_webdataset_shard(tmp_path / "more", "00007", clipart.rows[:20])

    nccleaner.score(run)
    before = mtimes(run / "scores")
    nccleaner.score(run, tmp_path / "more")
    summary = nccleaner.purge(run).summary

    assert {path: time for path, time in mtimes(run / "scores").items() if path in before} == before
    assert summary.samples == 260
    assert nccleaner.KeepSet(run)({"shard": "00007", "key": "nothing"}) is False


def test_scores_do_not_depend_on_the_number_of_threads(run):
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            shutil.rmtree(run / "scores")
            nccleaner.score(run)
            found.append({path.name: path.read_bytes() for path in (run / "scores").iterdir()})
    finally:
        torch.set_num_threads(threads)
    assert len(found[0]) > 1
    assert found[0] == found[1]


def test_missing_scores_are_made_again_and_equal(run):
    path = run / "scores" / "00000.parquet"
    content, other = path.read_bytes(), (run / "scores" / "00001.parquet").stat().st_mtime_ns
    path.unlink()

    nccleaner.score(run)

    assert path.read_bytes() == content
    assert (run / "scores" / "00001.parquet").stat().st_mtime_ns == other


def test_a_pair_of_the_pool_is_judged_by_what_training_believed_of_it(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    path, scores = copy / "checkpoints" / "pool.parquet", copy / "scores" / "00001.parquet"
    scorer = Scorer.load(copy / "checkpoints" / "best.safetensors", device="cpu")
    for head in scorer.judges.fitted.heads:
        head.weights[0] = -1.0  # few probes may have left it at 0
    scorer.save(copy / "checkpoints" / "best.safetensors")
    nccleaner.score(copy)
    before, pool = pq.read_table(scores), pq.read_table(path)
    belief = pool["belief"].to_numpy().copy()
    changed = pool["shard"].to_pylist().index("00001")
    belief[changed] = belief[changed] < 0.5
    at = pool.column_names.index("belief")
    pq.write_table(pool.set_column(at, "belief", pa.array(belief)), path)
    scores.unlink()

    nccleaner.score(copy)

    after = pq.read_table(scores)
    assert after["similarity"].equals(before["similarity"])
    others = pc.not_equal(after["key"], pool["key"][changed])
    assert after.filter(others).equals(before.filter(others))
    assert not after["corrected_similarity"].equals(before["corrected_similarity"])


def test_parts_that_are_missing_or_damaged_are_extracted_again_and_equal(run):
    scores = {path: path.read_bytes() for path in (run / "scores").glob("0000[01].parquet")}
    shutil.rmtree(run / "features" / "00000")
    image = run / "features" / "00001" / "image.npy"
    image.write_bytes(image.read_bytes()[:-1000])
    for path in scores:
        path.unlink()

    nccleaner.score(run)

    assert {path: path.read_bytes() for path in scores} == scores


def test_a_search_does_without_the_feature_cache(run):
    nccleaner.purge(run)
    shutil.rmtree(run / "features")

    assert nccleaner.search(run, "a bird", count=1)[0].caption


def test_a_shard_that_changed_is_not_extracted_as_what_it_was(run, clipart, tmp_path):
    write_parquet_shard(tmp_path / "shards", "00000", clipart.rows[:5])
    nccleaner.score(run, tmp_path / "shards", output=tmp_path / "out")
    write_parquet_shard(tmp_path / "shards", "00000", clipart.rows[5:12])
    shutil.rmtree(tmp_path / "out" / "features")
    with pytest.raises(ShardError, match="has changed"):
        nccleaner.purge(run, output=tmp_path / "out")
