"""Parts of the feature cache to the tables of the baselines."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from baselines.pool import Pool, Truth

from nccleaner.data.features import FeaturePart
from nccleaner.records import ShardReport

# key, status, image, caption; images and captions stand for their features.
SHARDS = {
    "00000": [("a", "ok", 1, "one"), ("b", "empty_caption", None, None), ("c", "ok", 2, "two")],
    "00001": [("a", "ok", 2, "other two"), ("d", "ok", 3, "one")],
}
LENGTH = {"one": 30, "two": 20, "other two": 25}


def write_part(folder, shard, samples):
    folder.mkdir()
    good = [sample for sample in samples if sample[1] == "ok"]
    images = list(dict.fromkeys(sample[2] for sample in good))
    captions = list(dict.fromkeys(sample[3] for sample in good))
    rows = [
        {
            "key": key,
            "status": status,
            "caption": caption,
            "image_sha256": None if image is None else f"{image:064x}",
            "image_row": -1 if image is None else images.index(image),
            "text_row": -1 if caption is None else captions.index(caption),
        }
        for key, status, image, caption in samples
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "samples.parquet")
    np.save(folder / "image.npy", np.array(images, np.float16)[:, None])
    np.save(folder / "text.npy", np.array([LENGTH[c] for c in captions], np.float16)[:, None])
    return FeaturePart(folder, ShardReport(shard, len(samples), len(good), {}, ""))


@pytest.fixture
def pool(tmp_path):
    parts = [write_part(tmp_path / shard, shard, rows) for shard, rows in SHARDS.items()]
    return Pool.read(parts, device="cpu")


def test_each_pair_has_the_features_of_its_image_and_caption(pool):
    frozen = pool.frozen()
    assert pool.names == [("00000", "a"), ("00000", "c"), ("00001", "a"), ("00001", "d")]
    assert frozen.images.flatten().tolist() == [1, 2, 2, 3]
    assert frozen.texts.flatten().tolist() == [30, 20, 25, 30]


def test_what_repeats_between_shards_has_one_row(pool):
    assert len(pool.features.images) == len(pool.features.texts) == 3
    assert pool.pairs.image_rows[1] == pool.pairs.image_rows[2]
    assert pool.pairs.text_rows[0] == pool.pairs.text_rows[3]


def test_the_truth_names_the_pairs_that_are_not_trusted(pool, tmp_path):
    path = tmp_path / "truth.csv"
    path.write_text("shard,key,mismatched\n00001,d,1\n00000,a,0\n00001,a,0\n")
    truth = Truth.read(path, pool.names)
    assert truth.rows.tolist() == [0, 2, 3]
    assert truth.mismatched.tolist() == [False, False, True]
