"""`evaluate` and `corrupt`, on one fitted run."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from smallfit import Warned, write_csv

import nccleaner
from nccleaner.errors import InputError, RunError, UsageError
from nccleaner.pipeline.evaluate import evaluate
from nccleaner.purify.scoring import Scorer


@pytest.fixture(scope="module")
def run(fitted, tmp_path_factory):
    copy = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(fitted.run, copy)
    return copy


@pytest.fixture(scope="module")
def truth_csv(clipart, tmp_path_factory):
    rows = [
        (f"0000{number // 140}", row.key, clipart.truth[row.key])
        for number, row in enumerate(clipart.rows)
    ]
    path = tmp_path_factory.mktemp("truth") / "truth.csv"
    return write_csv(path, ["shard", "key", "mismatched"], rows)


def test_detection_counts_the_pairs_that_nobody_labelled(run, truth_csv, clipart):
    metrics = evaluate(run, truth=truth_csv).detection

    labelled = set(clipart.trusted) | set(clipart.mismatched(6))
    kept, scores = set(), {}
    for path in (run / "clean" / "manifest").glob("*.parquet"):
        kept |= set(pq.read_table(path)["key"].to_pylist())
    for path in (run / "scores").glob("*.parquet"):
        scores |= {row["key"]: row for row in pq.read_table(path).to_pylist()}
    keys = [row.key for row in clipart.rows if row.key not in labelled]
    bad = np.array([bool(clipart.truth[key]) for key in keys])
    dropped = np.array([key not in kept for key in keys])
    corrected = np.array([scores[key]["corrected_similarity"] for key in keys])
    wins = (corrected[~bad][:, None] > corrected[bad]) + 0.5 * (
        corrected[~bad][:, None] == corrected[bad]
    )

    assert metrics is not None
    assert metrics.pairs == len(keys) == 144
    assert metrics.dropped_mismatched == (bad & dropped).sum()
    assert metrics.dropped_matched == (~bad & dropped).sum()
    assert metrics.kept_mismatched == (bad & ~dropped).sum()
    assert metrics.noise_rate == pytest.approx(bad.mean())
    assert metrics.auroc == pytest.approx(wins.mean())


def test_without_a_purge_the_clean_probability_decides(run, truth_csv, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    purged = evaluate(copy, truth=truth_csv).detection
    shutil.rmtree(copy / "clean")

    assert evaluate(copy, truth=truth_csv).detection == purged  # the purge had no other rule


def test_a_truth_is_read_before_anything_is_scored(tmp_path):
    with pytest.raises(InputError, match="is not there"):
        evaluate(tmp_path / "no-run", truth=tmp_path / "no.csv")


def test_rows_of_a_truth_that_name_no_scored_pair_are_told_of(run, truth_csv, tmp_path):
    silent, told = Warned(), Warned()
    more = tmp_path / "truth.csv"
    more.write_text(truth_csv.read_text() + "00000,nobody,1\n00001,nobody,0\n99999,x,0\n")

    before = evaluate(run, truth=truth_csv, reporter=silent).detection
    after = evaluate(run, truth=more, reporter=told).detection

    rows = len(truth_csv.read_text().splitlines()) - 1
    assert not silent.warnings
    assert f"2 of {rows + 2} rows of the truth name no pair" in told.warnings[0]
    assert after == before


def test_truths_that_cannot_be_used_are_refused(run, clipart, tmp_path):
    truth = tmp_path / "truth.csv"
    for content, error in (
        (None, "is not there"),
        ("", "cannot be read"),
        ("shard,key\n00000,1\n", "cannot be read"),
        ("shard,key,mismatched\n00000,1,maybe\n", "cannot be read"),
        ("shard,key,mismatched\n00000,1,2\n", "must be 0 or 1"),
        ("shard,key,mismatched\n00000,nobody,1\n", "None of the 1 rows"),
        (f"shard,key,mismatched\n00009,{clipart.rows[0].key},1\n", "None of the 1 rows"),
    ):
        if content is not None:
            truth.write_text(content)
        with pytest.raises(InputError, match=error):
            evaluate(run, truth=truth)
    with pytest.raises(UsageError):
        evaluate(run)
    with pytest.raises(RunError, match="nccleaner fit"):
        evaluate(tmp_path, truth=truth)


@pytest.mark.parametrize("value", [0, 1])
def test_a_truth_of_one_kind_has_no_curve(run, clipart, tmp_path, value):
    rows = [("00000", row.key, value) for row in clipart.rows[:140]]
    truth = write_csv(tmp_path / "truth.csv", ["shard", "key", "mismatched"], rows)

    metrics = evaluate(run, truth=truth).detection

    assert metrics is not None
    assert metrics.auroc is None
    assert metrics.noise_rate == value


def test_retrieval_is_that_of_the_embeddings(run, fitted):
    shutil.copytree(run / "features" / "00001", run / "evaluation" / "00001")
    scores = {path: path.stat().st_mtime_ns for path in (run / "scores").iterdir()}

    metrics = evaluate(run, fitted.shards / "00001.tar").retrieval

    scorer = Scorer.load(run / "checkpoints" / "best.safetensors", device="cpu")
    features = run / "features" / "00001"
    samples = pq.read_table(features / "samples.parquet")
    image, text = (
        np.load(features / f"{kind}.npy")[samples[f"{kind}_row"].to_numpy()]
        for kind in ("image", "text")
    )
    images = scorer.embed_images(torch.from_numpy(image)).numpy()
    texts = scorer.embed_texts(torch.from_numpy(text)).numpy()
    products = images @ texts.T
    ranks = (products > np.diag(products)[:, None]).sum(axis=1)
    assert metrics is not None
    assert metrics.image_to_text_r5 == pytest.approx(100 * (ranks < 5).mean(), abs=1.01)
    assert {path: path.stat().st_mtime_ns for path in (run / "scores").iterdir()} == scores


def test_folds_are_measured_beside_the_whole(run, fitted):
    whole = evaluate(run, fitted.shards / "00001.tar")
    found = evaluate(run, fitted.shards / "00001.tar", folds=4)

    assert whole.retrieval_in_folds is None
    assert found.retrieval == whole.retrieval
    assert found.retrieval is not None
    assert found.retrieval_in_folds is not None
    assert found.retrieval_in_folds.images == found.retrieval.images
    assert found.retrieval_in_folds.rsum > found.retrieval.rsum  # fewer wrong answers
    for folds in (0, 2):
        with pytest.raises(UsageError, match=f"{folds} folds"):
            evaluate(run, truth="truth.csv", folds=folds)


def test_shards_that_were_corrupted_are_found_out(run, fitted, tmp_path, trusted_csv):
    out = tmp_path / "noisy"
    report = nccleaner.corrupt(
        fitted.shards / "00001.tar", out, ratio=0.5, seed=3, kind="random", trusted=trusted_csv
    )
    with (out / "truth.csv").open(newline="") as file:
        told = {(row["shard"], row["key"]): int(row["mismatched"]) for row in csv.DictReader(file)}
    nccleaner.score(run, out, output=tmp_path / "other")
    metrics = evaluate(run, truth=out / "truth.csv", output=tmp_path / "other").detection

    assert metrics is not None
    assert metrics.pairs == len(told) == 100
    assert metrics.noise_rate == pytest.approx(sum(told.values()) / 100)
    assert report is not None
    scores = pa.concat_tables(
        pq.read_table(path) for path in (tmp_path / "other" / "scores").glob("*.parquet")
    )
    assert not any(scores["fitted"].to_pylist())
