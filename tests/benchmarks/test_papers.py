"""The builder for the papers' data sets, on small copies of the same form."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import webshards
from builders import jpeg, make_rows, write_parquet_shard, write_webdataset_shard
from papers import Noise, build_karpathy, main, read_noise_index

from nccleaner.config import DataConfig
from nccleaner.data.locations import find_shards
from nccleaner.data.matching import match_trusted
from nccleaner.data.reading import ShardReading
from nccleaner.data.trusted import read_trusted
from nccleaner.errors import InputError
from nccleaner.pipeline.backbones import limits_of

SPLITS = ["train"] * 6 + ["restval"] * 4 + ["val", "test"]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(webshards, "SAMPLES_PER_SHARD", 20)


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """A dozen JPEGs that differ in their last bytes; as in COCO some have a sixth caption."""
    folder = tmp_path_factory.mktemp("coco")
    entries = []
    for number, split in enumerate(SPLITS):
        name, path = f"COCO_{number:012d}.jpg", "val2014" if number % 2 else "train2014"
        (folder / path).mkdir(exist_ok=True)
        (folder / path / name).write_bytes(jpeg() + name.encode())
        raw = [f"{name} told  for the {k}. time\n" for k in range(5 + number % 2)]
        entries.append(
            {
                "filepath": path,
                "filename": name,
                "split": split,
                "sentences": [{"raw": text, "tokens": text.split()} for text in raw],
            }
        )
    (folder / "dataset_coco.json").write_text(json.dumps({"dataset": "coco", "images": entries}))
    return folder


def build(coco, out, *, trusted=8, captions=5, noise=None):
    return build_karpathy(
        coco / "dataset_coco.json",
        coco,
        out,
        noise=noise or Noise(),
        captions=captions,
        trusted=trusted,
    )


def read_samples(folder):
    samples = {}
    for shard in find_shards(folder / "shards"):
        reading = ShardReading(shard, limits=limits_of(DataConfig()))
        samples |= {(sample.shard, sample.key): sample for sample in reading}
        assert reading.problem == ""
    return samples


def read_rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def image_name(sample):
    return sample.image[len(jpeg()) :].decode()


def is_mismatched(sample):
    return not sample.caption.startswith(image_name(sample))


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_sets_are_clean_and_have_five_captions_an_image(coco, tmp_path, split):
    build(coco, tmp_path)
    samples = list(read_samples(tmp_path / split).values())
    name = f"COCO_{SPLITS.index(split):012d}.jpg"
    assert [sample.caption for sample in samples] == [
        f"{name} told for the {k}. time" for k in range(5)
    ]
    assert {image_name(sample) for sample in samples} == {name}


@pytest.mark.parametrize("kind", ["random", "block", "similar"])
def test_the_truth_is_about_every_pair_that_is_not_trusted(coco, tmp_path, kind):
    train = build(coco, tmp_path, noise=Noise(kind=kind))
    samples = read_samples(train)
    truth = {
        (row["shard"], row["key"]): int(row["mismatched"]) for row in read_rows(train / "truth.csv")
    }
    trusted = {(row["shard"], row["key"]) for row in read_rows(train / "trusted.csv")}
    assert len(trusted) == 8
    assert truth.keys() == samples.keys() - trusted
    assert len(samples) == 50  # of train and restval
    for name, sample in samples.items():
        assert is_mismatched(sample) == truth.get(name, 0)
    assert 0 < sum(truth.values()) <= 20  # at most 40 %; with ten images a draw may come back


def test_fewer_captions_are_drawn_from_all(coco, tmp_path):
    samples = list(read_samples(build(coco, tmp_path, captions=1, trusted=2)).values())
    assert len({image_name(sample) for sample in samples}) == len(samples) == 10
    assert len({sample.caption[-8:] for sample in samples}) > 2


def ncr_index(*, ratio, seed):
    """As NCR's `PrecompDataset` makes it."""
    rng = np.random.default_rng(seed)
    index = np.arange(50) // 5
    chosen = rng.permutation(50)[: int(ratio * 50)]
    index[chosen] = rng.permutation(index[chosen])
    return index


def test_ncrs_noise_index_is_honoured(coco, tmp_path):
    index = ncr_index(ratio=0.5, seed=0)
    np.save(tmp_path / "noise.npy", index)
    train = build(coco, tmp_path / "out", noise=Noise(file=tmp_path / "noise.npy"))
    shown = {sample.caption: image_name(sample) for sample in read_samples(train).values()}
    names = [f"COCO_{number:012d}.jpg" for number in range(10)]
    expected = {f"{names[c // 5]} told for the {c % 5}. time": names[index[c]] for c in range(50)}
    assert shown == expected
    wrong = sum(int(row["mismatched"]) for row in read_rows(train / "truth.csv"))
    assert wrong == (index != np.arange(50) // 5).sum() > 15


def test_a_noise_index_of_other_pairs_is_refused(tmp_path):
    image_of = np.arange(50) // 5
    shorter, of_one_image, of_captions = image_of[:-1], np.zeros(50, dtype=int), np.arange(50)
    for index in (shorter, of_one_image, of_captions):
        np.save(tmp_path / "noise.npy", index)
        with pytest.raises(InputError, match="no noise index of these pairs"):
            read_noise_index(tmp_path / "noise.npy", image_of)
    (tmp_path / "noise.npy").write_bytes(b"no array")
    with pytest.raises(InputError, match="cannot be read"):
        read_noise_index(tmp_path / "noise.npy", image_of)


def test_equal_arguments_give_equal_bytes_and_other_folders_for_others(coco, tmp_path):
    def content(folder):
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }

    build(coco, tmp_path / "a")
    build(coco, tmp_path / "b")
    assert content(tmp_path / "a") == content(tmp_path / "b")
    default = Noise()
    others = (default, replace(default, ratio=0.2), replace(default, kind="block"))
    folders = [build(coco, tmp_path / "a", noise=noise) for noise in others]
    folders += [build(coco, tmp_path / "a", captions=2), build(coco, tmp_path / "a", trusted=3)]
    assert len(set(folders)) == 5


def test_what_is_missing_is_named(coco, tmp_path):
    for content, said in (
        ("{}", "KeyError"),
        ("[", "cannot be read"),
        ('{"images": []}', "no images of the split train"),
    ):
        (tmp_path / "dataset.json").write_text(content)
        with pytest.raises(InputError, match=said):
            build_karpathy(
                tmp_path / "dataset.json", coco, tmp_path, noise=Noise(), captions=5, trusted=1
            )
    with pytest.raises(InputError, match=r"COCO_0.*jpg cannot be read: No such file"):
        build_karpathy(
            coco / "dataset_coco.json", tmp_path, tmp_path, noise=Noise(), captions=5, trusted=1
        )
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.json"]


def write_list(path, rows):
    lines = [f'{row.key}_1\t"{row.caption} , as NCR has it\t{row.fields["url"]}\n' for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


def test_cc152k_takes_ncrs_captions_for_what_was_downloaded(tmp_path, capsys):
    arguments = ["cc152k", str(tmp_path / "out")]
    for shard_id, (name, write) in enumerate(
        {
            "train": write_parquet_shard,
            "trusted": write_webdataset_shard,
            "test": write_webdataset_shard,
        }.items()
    ):
        rows = make_rows(8, shard_id=shard_id)
        rows[3] = replace(rows[3], image=None)  # the download failed
        write(tmp_path / name, f"{shard_id:05d}", rows)
        write_list(tmp_path / f"{name}.csv", rows[:6])  # others were downloaded with them
        arguments += [f"--{name}", str(tmp_path / f"{name}.csv"), str(tmp_path / name)]
    main(arguments)

    out = tmp_path / "out"
    for name in ("train", "test"):
        captions = [sample.caption for sample in read_samples(out / name).values()]
        assert len(captions) == 5
        assert all(c.startswith('"a ') and c.endswith(" , as NCR has it") for c in captions)
    trusted = read_trusted(out / "trusted" / "trusted.csv")
    match = match_trusted(trusted, catalog())
    assert len(match.pairs) == 5
    said = capsys.readouterr().out
    assert f"nccleaner fit {out / 'train' / 'shards'} --meta {out / 'trusted'}" in said


def catalog():
    """Of shards without samples."""
    names = ("shard", "key", "uid", "url", "caption", "status")
    return pa.table({name: pa.array([], pa.string()) for name in names})


def test_cc152k_refuses_lists_and_folders_of_something_else(tmp_path):
    rows = make_rows(3)
    write_webdataset_shard(tmp_path / "images", "00000", rows)
    (tmp_path / "header.csv").write_text("id,caption,url\n")
    write_list(tmp_path / "other.csv", make_rows(3, shard_id=5))
    for name, said in (
        ("header.csv", "line 1: expected id, caption and URL"),
        ("other.csv", "holds no image of a URL"),
        ("none.csv", "cannot be read"),
    ):
        split = [str(tmp_path / name), str(tmp_path / "images")]
        arguments = ["--train", *split, "--trusted", *split, "--test", *split]
        with pytest.raises(SystemExit, match=said):
            main(["cc152k", str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out" / "train").exists()
