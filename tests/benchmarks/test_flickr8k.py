"""The builder of the benchmark's shards, on a data folder made here in the form of Flickr8k."""

from __future__ import annotations

import csv
import tarfile
from dataclasses import replace
from pathlib import Path

import flickr8k
import pyarrow.parquet as pq
import pytest
import webshards
from builders import LIMITS, jpeg, tar_bytes
from flickr8k import (
    CAPTIONS_PER_IMAGE,
    TrainingPlan,
    build_clean,
    build_training,
    build_validation,
)

from nccleaner.data.locations import find_shards
from nccleaner.data.reading import ShardReading
from nccleaner.records import Sample

IMAGES = 40  # of each split
PLAN = TrainingPlan(images=IMAGES, captions=5, trusted=30, kind="random", ratio=0.4, seed=0)
MIXED_UP = 68  # 0.4 of the 170 pairs that are not trusted


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that differ in their last bytes, captions that name their image."""
    folder = tmp_path_factory.mktemp("flickr8k")
    rows = []
    for split in ("train", "val"):
        names = [f"{split}-{number:02d}.jpg" for number in range(IMAGES)]
        members = [(name, jpeg() + name.encode()) for name in names]
        (folder / f"images_{split}.tar").write_bytes(tar_bytes(reversed(members)))
        rows += [
            (name, split, number, f"{name} told for the {number}. time, with a \u201cquote\u201d")
            for name in names
            for number in range(CAPTIONS_PER_IMAGE)
        ]
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "split", "caption_idx", "caption"))
        writer.writerows(rows)
    return folder


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webshards, "SAMPLES_PER_SHARD", 70)


def read_samples(folder: Path) -> dict[tuple[str, str], Sample]:
    samples = []
    for shard in find_shards(folder / "shards"):
        reading = ShardReading(shard, limits=LIMITS)
        samples += list(reading)
        assert reading.problem == ""
    assert {sample.status for sample in samples} == {"ok"}
    return {(sample.shard, sample.key): sample for sample in samples}


def image_name(sample: Sample) -> str:
    assert sample.image is not None
    return sample.image[len(jpeg()) :].decode()


def is_mismatched(sample: Sample) -> bool:
    assert sample.caption is not None
    return not sample.caption.startswith(image_name(sample))


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def read_names(path: Path) -> set[tuple[str, str]]:
    return {(row["shard"], row["key"]) for row in read_rows(path)}


def file_bytes(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("kind", ["random", "block", "similar"])
def test_the_truth_says_which_captions_belong_to_another_image(data, tmp_path, kind):
    folder = build_training(data, tmp_path, replace(PLAN, kind=kind))
    samples = read_samples(folder)
    truth = read_rows(folder / "truth.csv")
    for row in truth:
        assert int(row["mismatched"]) == is_mismatched(samples[row["shard"], row["key"]])
    assert 0.7 * MIXED_UP < sum(int(row["mismatched"]) for row in truth) <= 1.1 * MIXED_UP


def test_trusted_pairs_keep_their_captions_and_are_not_in_the_truth(data, tmp_path):
    folder = build_training(data, tmp_path, replace(PLAN, ratio=1.0))
    samples = read_samples(folder)
    trusted = read_names(folder / "trusted.csv")
    assert len(trusted) == PLAN.trusted
    assert not any(is_mismatched(samples[name]) for name in trusted)
    assert read_names(folder / "truth.csv") == samples.keys() - trusted


def test_captions_are_exchanged_not_invented(data, tmp_path):
    folder = build_training(data, tmp_path, PLAN)
    told = sorted(sample.caption for sample in read_samples(folder).values())
    rows = [row for row in read_rows(data / "captions.csv") if row["split"] == "train"]
    assert told == sorted(row["caption"] for row in rows)


def test_one_caption_an_image_is_drawn_from_all_of_them(data, tmp_path):
    folder = build_training(data, tmp_path, replace(PLAN, captions=1, trusted=10, ratio=0.0))
    samples = list(read_samples(folder).values())
    assert len({image_name(sample) for sample in samples}) == len(samples) == IMAGES
    for number in range(CAPTIONS_PER_IMAGE):
        assert any(f"the {number}. time" in (sample.caption or "") for sample in samples)


def test_fewer_images_are_drawn_by_seed(data, tmp_path):
    drawn = set()
    for seed in range(3):
        folder = build_training(data, tmp_path, replace(PLAN, images=8, trusted=5, seed=seed))
        names = {image_name(sample) for sample in read_samples(folder).values()}
        assert len(names) == 8
        drawn.add(frozenset(names))
    assert len(drawn) == 3


def test_equal_plans_give_equal_bytes_and_other_seeds_give_others(data, tmp_path):
    first = file_bytes(build_training(data, tmp_path / "first", PLAN))
    again = file_bytes(build_training(data, tmp_path / "again", PLAN))
    other = file_bytes(build_training(data, tmp_path / "other", replace(PLAN, seed=1)))
    assert first == again
    assert first["truth.csv"] != other["truth.csv"]


def test_shards_are_reused_and_the_whole_plan_is_in_their_name(data, tmp_path):
    folder = build_training(data, tmp_path, PLAN)
    (folder / "truth.csv").unlink()
    assert build_training(data, tmp_path, PLAN) == folder
    assert not (folder / "truth.csv").exists()
    changes = ({"images": 8}, {"captions": 1}, {"trusted": 5}, {"ratio": 0.2}, {"seed": 1})
    plans = [PLAN, replace(PLAN, kind="block"), *(replace(PLAN, **change) for change in changes)]
    assert len({plan.name for plan in plans}) == len(plans)


def test_a_build_that_fails_leaves_nothing(data, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(flickr8k, "write_csv", fail)
    with pytest.raises(OSError, match="disk full"):
        build_training(data, tmp_path, PLAN)
    assert list(tmp_path.iterdir()) == []


def test_shards_are_cut_and_described_as_img2dataset_does(data, tmp_path):
    shards = build_training(data, tmp_path, PLAN) / "shards"
    assert sorted(path.name for path in shards.iterdir()) == sorted(
        name
        for shard in ("00000", "00001", "00002")
        for name in (f"{shard}.tar", f"{shard}.parquet", f"{shard}_stats.json")
    )
    rows = pq.read_table(shards / "00002.parquet").to_pylist()
    assert [row["key"] for row in rows] == [f"00002{row:02d}" for row in range(60)]
    with tarfile.open(shards / "00002.tar") as tar:
        assert tar.getnames()[:3] == ["0000200.jpg", "0000200.txt", "0000200.json"]


def test_validation_is_clean_and_has_all_captions_of_an_image(data, tmp_path):
    samples = read_samples(build_validation(data, tmp_path, images=20)).values()
    assert not any(is_mismatched(sample) for sample in samples)
    assert all(image_name(sample).startswith("val-") for sample in samples)
    assert len({image_name(sample) for sample in samples}) == 20
    assert len({sample.caption for sample in samples}) == len(samples) == 100


def test_clean_shards_hold_all_but_the_mismatched_pairs(data, tmp_path):
    folder = build_training(data, tmp_path, PLAN)
    samples = read_samples(folder)
    build_clean(folder, tmp_path / "clean" / "shards")
    clean = read_samples(tmp_path / "clean")
    assert clean.keys() == {name for name, pair in samples.items() if not is_mismatched(pair)}
    assert 0 < len(clean) < len(samples)
    for name, pair in clean.items():
        assert (pair.image, pair.caption) == (samples[name].image, samples[name].caption)
