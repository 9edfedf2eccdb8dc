"""`fit`: what it repeats, what it uses again, what it refuses."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from builders import make_rows, write_webdataset_shard
from smallfit import Warned, tiny, write_csv

import nccleaner
from nccleaner.errors import (
    InputError,
    PrecisionError,
    RunError,
    ShardError,
    TrustedError,
    UsageError,
)
from nccleaner.pipeline import calibrating
from nccleaner.purify.near_misses import NearMisses
from nccleaner.purify.posterior import Posterior


def read_scores(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "scores").glob("*.parquet")}


def with_features(fitted, folder: Path) -> Path:
    """A run directory that holds the features of the shards and nothing else."""
    shutil.copytree(fitted.run / "features", folder / "run" / "features")
    return folder / "run"


def mtimes(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_shards_without_a_pair_are_named_and_not_the_trusted_file(trusted_csv, tmp_path):
    write_webdataset_shard(tmp_path / "shards", "00000", [])

    with pytest.raises(InputError, match="0 samples and no pair among them"):
        nccleaner.fit(tmp_path / "shards", meta=trusted_csv, run=tmp_path / "run", config=tiny())


def test_one_seed_gives_the_same_bytes_and_another_seed_others(fitted, trusted_csv, tmp_path):
    run = with_features(fitted, tmp_path)
    before = mtimes(run / "features")

    result = nccleaner.fit(fitted.shards, meta=trusted_csv, run=run, config=tiny())
    nccleaner.score(run)
    again = read_scores(run)
    nccleaner.fit(fitted.shards, meta=trusted_csv, run=run, config=tiny(seed=1))
    assert not (run / "scores").exists()  # those of the earlier fit are gone
    nccleaner.score(run)

    assert again == read_scores(fitted.run)
    assert result.probe_auroc == fitted.result.probe_auroc
    assert set(read_scores(run)) == set(again)
    assert all(content != again[name] for name, content in read_scores(run).items())
    assert mtimes(run / "features") == before  # what was extracted is used again


@pytest.mark.slow
def test_a_fit_that_is_killed_while_extracting_goes_on_where_it_was(fitted, trusted_csv, tmp_path):
    run = tmp_path / "run"
    script = (
        "import sys, nccleaner\n"
        "config = nccleaner.RunConfig.model_validate_json(sys.argv[4])\n"
        "nccleaner.fit(sys.argv[1], meta=sys.argv[2], run=sys.argv[3], config=config)\n"
    )
    config = tiny().model_dump_json()
    arguments = [fitted.shards, trusted_csv, run, config]
    process = subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)])
    deadline = time.monotonic() + 120
    while not (run / "features" / "00000").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (run / "features" / "00001").exists()
    before = mtimes(run / "features" / "00000")
    assert before
    with pytest.raises(RunError, match="no finished fit"):
        nccleaner.purge(run)

    nccleaner.fit(fitted.shards, meta=trusted_csv, run=run, config=tiny())
    nccleaner.score(run)

    assert mtimes(run / "features" / "00000") == before
    assert not list(run.rglob(".nccleaner-*"))
    assert read_scores(run) == read_scores(fitted.run)


def test_a_fit_with_nothing_changed_trains_nothing_and_leaves_what_is_there(
    fitted, trusted_csv, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(fitted.run, run)
    kept = [path for path in run.rglob("*") if path.is_file() and path.name != "run.json"]
    before = {path: path.read_bytes() for path in kept if path.name != "state.pt"}
    trained_at = (run / "checkpoints" / "state.pt").stat().st_mtime_ns

    result = nccleaner.fit(fitted.shards, meta=trusted_csv, run=run, config=tiny())

    assert (run / "checkpoints" / "state.pt").stat().st_mtime_ns == trained_at
    assert {path: path.read_bytes() for path in before} == before
    same = {"run": fitted.run, "seconds": 0.0, "training_s": 0.0}
    assert replace(result, **same) == replace(fitted.result, **same)


def test_near_misses_end_what_was_decided_without_them_and_are_told(
    fitted, trusted_csv, clipart, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    shutil.copytree(fitted.run, run)
    nccleaner.purge(run, index=False)
    trained_at = (run / "checkpoints" / "state.pt").stat().st_mtime_ns
    found = NearMisses(Posterior(-0.5, 0.5), 0.45, np.linspace(0.35, 0.55, 100))
    monkeypatch.setattr(calibrating, "find_near_misses", lambda views, *, rate, seed: found)

    result = nccleaner.fit(fitted.shards, meta=trusted_csv, run=run, config=tiny())

    assert (run / "checkpoints" / "state.pt").stat().st_mtime_ns == trained_at
    assert result.noise_rate == 0.45
    assert "neither trusted nor exchanged" in result.warning
    assert not (run / "scores").exists()
    assert not (run / "clean").exists()
    reporter = Warned()
    summary = nccleaner.purge(run, index=False, reporter=reporter).summary
    assert [text[:30] for text in reporter.warnings] == ["Take the estimates with care: "]
    assert "form of the scores" in summary.mismatched_before.source
    assert summary.mismatched_before.low < summary.mismatched_before.high
    with pytest.raises(PrecisionError, match="can promise nothing") as refused:
        nccleaner.purge(run, target_precision=0.3, index=False)
    assert "--sample" in refused.value.next_step
    free = [row.key for row in clipart.rows if row.key not in clipart.trusted][-60:]
    labels = [(key, 1 - clipart.truth[key]) for key in free]
    sample = write_csv(tmp_path / "sample.csv", ["key", "label"], labels)
    assert nccleaner.purge(run, target_precision=0.3, sample=sample, index=False).summary.promise
    settings = tiny(purify={"near_misses": False})
    again = nccleaner.fit(fitted.shards, meta=trusted_csv, run=run, config=settings)
    assert again.noise_rate == fitted.result.noise_rate
    assert (run / "checkpoints" / "state.pt").stat().st_mtime_ns == trained_at


def test_training_that_fails_leaves_no_fit_and_no_tables(
    fitted, trusted_csv, tmp_path, monkeypatch
):
    run = with_features(fitted, tmp_path)

    def fail(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nccleaner.pipeline.fit.train_scorer", fail)
    with pytest.raises(KeyboardInterrupt):
        nccleaner.fit(fitted.shards, meta=trusted_csv, run=run, config=tiny())

    assert sorted(os.listdir(run)) == ["features"]  # noqa: PTH208
    with pytest.raises(RunError, match="nccleaner fit"):
        nccleaner.score(run)


def test_no_trusted_file_no_shards_and_too_few_trusted_pairs_are_refused(
    fitted, clipart, trusted_csv, tmp_path
):
    run = with_features(fitted, tmp_path)
    config = tiny()
    with pytest.raises(TrustedError, match="is not there"):
        nccleaner.fit(fitted.shards, meta=tmp_path / "no.csv", run=run, config=config)
    few = write_csv(tmp_path / "few.csv", ["key"], [[key] for key in clipart.trusted[:19]])
    with pytest.raises(ShardError):
        nccleaner.fit(tmp_path / "nowhere", meta=trusted_csv, run=run, config=config)
    # Before the shards are read, which may take days.
    with pytest.raises(TrustedError, match="usable pairs: 19"):
        nccleaner.fit(fitted.shards, meta=few, run=tmp_path / "fresh", config=config)
    assert not (tmp_path / "fresh").exists()
    keys = [*clipart.trusted[:10], *(f"no{row}" for row in range(12, 22))]
    many = write_csv(tmp_path / "unknown.csv", ["key"], [[key] for key in keys])
    with pytest.raises(TrustedError, match=r"usable pairs: 10.*row 12: key 'no12' is in no shard"):
        nccleaner.fit(fitted.shards, meta=many, run=run, config=config)


def test_trusted_pairs_that_leave_nothing_to_learn_from_are_refused(fitted, clipart, tmp_path):
    run = with_features(fitted, tmp_path)
    everything = write_csv(tmp_path / "all.csv", ["key"], [[row.key] for row in clipart.rows])

    (run / "run.json").write_text("of an earlier fit")
    with pytest.raises(InputError, match="not trusted; at least 20"):
        nccleaner.fit(fitted.shards, meta=everything, run=run, config=tiny())
    assert (run / "run.json").exists()  # what cannot be used costs no earlier fit


def test_a_capped_pool_is_a_seeded_sample(fitted, trusted_csv, tmp_path):
    run = with_features(fitted, tmp_path)
    config = tiny(train={"max_pairs": 100})
    pools = []
    for _ in range(2):
        result = nccleaner.fit(fitted.shards, meta=trusted_csv, run=run, config=config)
        pools.append((run / "checkpoints" / "pool.parquet").read_bytes())
    nccleaner.score(run)

    pool = set(pq.read_table(run / "checkpoints" / "pool.parquet")["key"].to_pylist())
    marked = {
        row["key"]
        for path in (run / "scores").glob("*.parquet")
        for row in pq.read_table(path).to_pylist()
        if row["fitted"]
    }
    assert pools[0] == pools[1]
    assert marked == pool
    assert 20 <= len(pool) < result.pool <= 100 + result.trusted["probe"]
    assert result.pool < fitted.result.pool


def test_a_gru_reads_captions_from_scratch(fitted, trusted_csv, clipart, tmp_path):
    run = tmp_path / "run"
    config = tiny(
        encoders={"text": "gru"},
        model={"vocabulary": 500, "max_tokens": 16, "embedding_width": 16},
    )

    result = nccleaner.fit(fitted.shards, meta=trusted_csv, run=run, config=config)
    summary = nccleaner.purge(run, keep_fraction=0.5).summary
    hits = nccleaner.search(run, "a bird", count=3)

    assert result.pool == fitted.result.pool
    assert summary.samples == 240
    assert not (run / "features" / "00000" / "text.npy").exists()
    assert len(hits) == 3
    captions = {row.key: row.caption for row in clipart.rows}
    assert all(hit.caption == captions[hit.key] for hit in hits)


def test_a_run_directory_among_the_shards_is_refused(trusted_csv, tmp_path):
    write_webdataset_shard(tmp_path, "00000", make_rows(3))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="input is never written to"):
        nccleaner.fit(tmp_path, meta=trusted_csv, run=tmp_path / "run")
    assert sorted(tmp_path.rglob("*")) == before
