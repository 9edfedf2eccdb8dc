"""A fit that fine-tunes the backbone: the run's encoder afterwards, and what is done only once."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import write_webdataset_shard
from safetensors.torch import load_file
from smallfit import tiny, write_csv
from tinyclip import write_tiny_clip

import nccleaner
from nccleaner.config import DataConfig
from nccleaner.data.images import decode_image
from nccleaner.data.locations import find_shards
from nccleaner.data.reading import ShardReading
from nccleaner.errors import RunError, ShardError, UsageError
from nccleaner.pipeline.backbones import limits_of
from nccleaner.pipeline.pixels import write_pixels
from nccleaner.pipeline.pool import image_identities
from nccleaner.pipeline.reporter import SilentReporter
from nccleaner.purify.scoring import Scorer
from nccleaner.records import ImageSpec

CONFIG = tiny(train={"fine_tune_epochs": 1, "fine_tune_learning_rate": 1e-4, "batch_size": 16})
LITE0_WIDTH = 1280


@pytest.fixture(scope="module")
def few(clipart, tmp_path_factory) -> tuple[Path, Path]:
    """50 pairs in a shard, 26 of them trusted, and one trusted pair with an image of its own."""
    folder = tmp_path_factory.mktemp("few")
    trusted = set(clipart.trusted[:26])
    others = [row for row in clipart.rows if row.key not in clipart.trusted][:25]
    rows = [row for row in clipart.rows if row.key in trusted] + others[:24]
    write_webdataset_shard(folder / "shards", "00000", rows)
    (folder / "own.jpg").write_bytes(others[24].image)
    table = [[key, "", ""] for key in sorted(trusted)] + [["", "own.jpg", "its own caption"]]
    return folder / "shards", write_csv(folder / "t.csv", ["key", "image", "caption"], table)


@pytest.fixture(scope="module")
def tuned(few, tmp_path_factory) -> tuple[Path, nccleaner.pipeline.results.FitResult]:
    run = tmp_path_factory.mktemp("tuned") / "run"
    return run, nccleaner.fit(few[0], meta=few[1], run=run, config=CONFIG)


def read_lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_the_tuned_backbones_are_the_runs_encoder(tuned, few):
    run, result = tuned
    assert result.epochs == 3
    assert not (run / "training").exists()
    encoder = json.loads((run / "run.json").read_text())["encoders"]["image"]
    assert encoder.startswith("fine-tuned efficientnet-lite0")
    frozen = np.load(run / "features" / "00000" / "image.npy")
    features = np.load(run / "features-fine-tuned" / "00000" / "image.npy")
    assert features.shape == (len(frozen), 3 * LITE0_WIDTH)
    assert np.array_equal(features[:, :LITE0_WIDTH], frozen)
    assert read_lines(run)[-1]["kind"] == "fine_tune"

    tensors = load_file(run / "checkpoints" / "fine_tuned.safetensors")
    name = "backbone.{}.backbone.network._conv_head.weight"
    changed = not np.array_equal(tensors[name.format(0)], tensors[name.format(1)])
    assert changed == (result.best_epoch == 3)
    assert 0 <= read_lines(run)[-1]["selection"] <= 1

    scorer = Scorer.load(run / "checkpoints" / "best.safetensors", device="cpu")
    firsts = [main_net.image_tower.first for main_net, _ in scorer.networks]
    assert firsts == [LITE0_WIDTH, 2 * LITE0_WIDTH]

    nccleaner.purge(run, keep_fraction=0.5)
    hits = nccleaner.search(run, few[1].parent / "own.jpg", count=3)
    assert len(hits) == 3


@pytest.mark.slow
def test_a_finished_fit_is_not_tuned_again_and_scores_repeat(tuned, few, tmp_path, monkeypatch):
    run = shutil.copytree(tuned[0], tmp_path / "run")
    nccleaner.score(run)
    scores = (run / "scores" / "00000.parquet").read_bytes()
    metrics = (run / "metrics.jsonl").read_text()

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("it was finished")

    with monkeypatch.context() as patch:
        patch.setattr("nccleaner.pipeline.finetuning.fine_tune", refuse)
        again = nccleaner.fit(few[0], meta=few[1], run=run, config=CONFIG)
    assert again.held_out_auroc == tuned[1].held_out_auroc
    assert (run / "metrics.jsonl").read_text() == metrics
    (run / "scores" / "00000.parquet").unlink()
    nccleaner.score(run)
    assert (run / "scores" / "00000.parquet").read_bytes() == scores


@pytest.mark.slow
def test_a_second_reading_that_gives_other_pairs_is_refused(tuned, few, tmp_path):
    run = shutil.copytree(tuned[0], tmp_path / "run")
    path = run / "features-fine-tuned" / "00000" / "samples.parquet"
    samples = pq.read_table(path)
    pool = pq.read_table(run / "checkpoints" / "pool.parquet")["key"].to_pylist()
    status = samples["status"].to_pylist()
    status[samples["key"].to_pylist().index(pool[3])] = "decode_timeout"
    at = samples.column_names.index("status")
    column = pa.array(status, samples.schema.field("status").type)
    pq.write_table(samples.set_column(at, "status", column), path)

    with pytest.raises(RunError, match="gave other pairs") as refused:
        nccleaner.fit(few[0], meta=few[1], run=run, config=CONFIG)

    assert str(run / "features-fine-tuned") in str(refused.value)


@pytest.mark.slow
def test_a_fit_without_it_goes_back_to_the_frozen_encoder(tuned, few, tmp_path):
    run = shutil.copytree(tuned[0], tmp_path / "run")
    frozen = tiny(train={"batch_size": 16})
    nccleaner.fit(few[0], meta=few[1], run=run, config=frozen)
    nccleaner.score(run)
    encoder = json.loads((run / "run.json").read_text())["encoders"]["image"]
    assert encoder.startswith("efficientnet-lite0")
    assert pq.read_table(run / "scores" / "00000.parquet").num_rows == 50


def test_every_image_becomes_pixels_once_in_its_row(few, tmp_path):
    rows = pq.read_table(next(few[0].glob("*.parquet"))).num_rows
    spec, data = ImageSpec(size_px=16), DataConfig(workers=0)
    shards = find_shards(few[0])
    images = {
        sample.key: sample.image for sample in ShardReading(shards[0], limits=limits_of(data))
    }
    chosen = sorted(images)[: rows // 2]
    identities = image_identities([hashlib.sha256(images[key]).hexdigest() for key in chosen])
    settings = {"spec": spec, "data": data, "reporter": SilentReporter()}
    pixels = write_pixels(tmp_path / "p.npy", shards, [], identities=identities, **settings)
    for key, square in zip(chosen, pixels.numpy(), strict=True):
        expected = decode_image(images[key], spec=spec, limits=limits_of(data))
        assert np.array_equal(square, expected)
    with pytest.raises(ShardError, match="1 images"):
        write_pixels(
            tmp_path / "q.npy", shards, [], identities=identities.new_tensor([7]), **settings
        )


def test_towers_of_open_clip_stay_frozen(few, tmp_path):
    pytest.importorskip("open_clip")
    architecture, weights = write_tiny_clip(tmp_path)
    config = tiny(
        encoders={"image": f"open_clip:{architecture}/{weights}"}, train={"fine_tune_epochs": 1}
    )
    with pytest.raises(UsageError, match="cannot be fine-tuned"):
        nccleaner.fit(few[0], meta=few[1], run=tmp_path / "run", config=config)
