from __future__ import annotations

import csv
import gzip
import json
import os
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
from builders import (
    make_rows,
    row_members,
    tar_bytes,
    write_files_shard,
    write_parquet_shard,
    write_webdataset_shard,
)

from nccleaner.data import corrupt
from nccleaner.data.corrupt import corrupt_shards
from nccleaner.data.locations import find_shards
from nccleaner.data.reading import ShardReading
from nccleaner.errors import InputError, ShardError, UsageError
from nccleaner.files import replace_file
from nccleaner.records import OK, Limits

LIMITS = Limits(
    max_image_pixels=10**6, max_caption_chars=1000, decode_timeout_s=5, max_member_bytes=10**6
)
WRITERS = {
    "webdataset": write_webdataset_shard,
    "parquet": write_parquet_shard,
    "files": write_files_shard,
}


def distinct_rows(count, shard_id=0):
    """Rows whose images all differ: what follows the end of a JPEG is not part of the picture."""
    return [replace(r, image=r.image + r.key.encode()) for r in make_rows(count, shard_id=shard_id)]


def write_shards(folder, kind="webdataset", counts=(30, 20)):
    for shard_id, count in enumerate(counts):
        rows = distinct_rows(count, shard_id)
        rows[3] = replace(rows[3], image=None)
        WRITERS[kind](folder, f"{shard_id:05d}", rows)
    return find_shards(folder)


def run(
    shards,
    out,
    *,
    ratio=0.4,
    seed=0,
    kind="random",
    category_column=None,
    keep=frozenset(),
    progress=lambda n: None,
):
    return corrupt_shards(
        shards,
        out,
        ratio=ratio,
        seed=seed,
        kind=kind,
        category_column=category_column,
        keep=keep,
        limits=LIMITS,
        progress=progress,
    )


def read(source):
    """Samples and columns of a folder of shards, by shard and key."""
    samples, columns = {}, {}
    for shard in find_shards(source):
        reading = ShardReading(shard, limits=LIMITS)
        for sample in reading:
            samples[sample.shard, sample.key] = sample
        assert reading.problem == ""
        for row in reading.metadata().to_pylist():
            columns[shard.name, row["key"]] = row
    return samples, columns


def read_truth(report):
    with report.truth.open(newline="", encoding="utf-8") as file:
        return {(row["shard"], row["key"]): row for row in csv.DictReader(file)}


def files_of(folder):
    paths = (path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("kind", WRITERS)
def test_captions_change_places_and_nothing_else_changes(tmp_path, kind):
    shards = write_shards(tmp_path / "in", kind)
    untouched = files_of(tmp_path / "in")
    report = run(shards, tmp_path / "out")
    assert files_of(tmp_path / "in") == untouched

    before, columns_before = read(tmp_path / "in")
    after, columns_after = read(tmp_path / "out")
    assert list(after) == list(before)
    truth = read_truth(report)
    pairs = {name for name, sample in before.items() if sample.status == OK}
    assert set(truth) == pairs
    assert len(pairs) == report.pairs == 48
    for name, sample in after.items():
        old = before[name]
        assert (sample.image, sample.status) == (old.image, old.status)
        source = tuple(truth[name]["caption_from"].split("/")) if name in truth else name
        assert sample.caption == before[source].caption
        assert columns_after[name] == {**columns_before[name], "caption": sample.caption}
        if name in truth:
            assert int(truth[name]["mismatched"]) == (sample.caption != old.caption)
    wrong = sum(int(row["mismatched"]) for row in truth.values())
    assert 15 <= wrong == report.mismatched <= 19  # 40 % of 48, but for fixed points
    count = Counter(sample.caption for sample in after.values())
    assert count == Counter(sample.caption for sample in before.values())


@pytest.mark.parametrize("kind", ["webdataset", "files"])
def test_the_truth_holds_for_names_that_are_not_utf8(tmp_path, kind):
    (tmp_path / "in").mkdir()
    members = [
        (os.fsdecode(b"caf\xe9%d" % number) + Path(name).suffix, content)
        for number, row in enumerate(distinct_rows(10))
        for name, content in row_members(row)
    ]
    if kind == "webdataset":
        (tmp_path / "in" / "0.tar").write_bytes(tar_bytes(members))
    else:
        (tmp_path / "in" / "0").mkdir()
        for name, content in members:
            (tmp_path / "in" / "0" / name).write_bytes(content)

    truth = read_truth(run(find_shards(str(tmp_path / "in")), tmp_path / "out", ratio=1))

    before, _ = read(tmp_path / "in")
    after, _ = read(tmp_path / "out")
    assert list(after) == list(before) == list(truth)
    for name, row in truth.items():
        shard, _, key = row["caption_from"].partition("/")
        assert after[name].caption == before[shard, key].caption
        assert int(row["mismatched"]) == (after[name].caption != before[name].caption)
    assert sum(int(row["mismatched"]) for row in truth.values()) > 5


def test_all_places_of_a_caption_agree_and_members_stay_uniform(tmp_path):
    run(write_shards(tmp_path / "in"), tmp_path / "out", ratio=1)
    captions = {}
    with tarfile.open(tmp_path / "out" / "00000.tar") as tar:
        members = tar.getmembers()
        content = {m.name: tar.extractfile(m).read() for m in members}
    with tarfile.open(tmp_path / "in" / "00000.tar") as tar:
        assert [m.name for m in members] == tar.getnames()
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {
        (0, 0, 0, "", "", 0o644)
    }
    for row in pq.read_table(tmp_path / "out" / "00000.parquet").to_pylist():
        if row["status"] == "success":
            captions[row["key"]] = row["caption"]
    assert len(captions) == 29
    for key, caption in captions.items():
        assert content[f"{key}.txt"].decode() == caption
        assert json.loads(content[f"{key}.json"])["caption"] == caption
    stats = (tmp_path / "in" / "00000_stats.json").read_bytes()
    assert (tmp_path / "out" / "00000_stats.json").read_bytes() == stats


@pytest.mark.parametrize("kind", WRITERS)
def test_equal_arguments_give_equal_bytes_and_other_seeds_others(tmp_path, kind):
    shards = write_shards(tmp_path / "in", kind)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(shards, tmp_path / name, seed=seed)
    a, b, c = (files_of(tmp_path / name) for name in "abc")
    assert a == b
    assert a["truth.csv"] != c["truth.csv"]


def test_no_noise_gives_the_same_samples(tmp_path):
    report = run(write_shards(tmp_path / "in"), tmp_path / "out", ratio=0)
    assert report.mismatched == 0
    assert read(tmp_path / "in") == read(tmp_path / "out")


def test_pairs_to_keep_are_left_alone(tmp_path):
    shards = write_shards(tmp_path / "in")
    keep = {("00000", f"00000{number:04d}") for number in range(20)}
    truth = read_truth(run(shards, tmp_path / "out", ratio=1, keep=keep))
    for name in keep & set(truth):
        assert truth[name]["mismatched"] == "0"
        assert truth[name]["caption_from"] == "/".join(name)
    others = [row["mismatched"] for name, row in truth.items() if name not in keep]
    assert others.count("1") >= len(others) - 3


def test_block_moves_captions_of_equal_images_together(tmp_path):
    rows = make_rows(27)  # 9 images, three captions each
    write_webdataset_shard(tmp_path / "in", "00000", rows)
    report = run(find_shards(tmp_path / "in"), tmp_path / "out", ratio=1, kind="block")
    image_of = {row.key: row.image for row in rows}
    sources: dict[bytes, set[bytes]] = {}
    for (_, key), row in read_truth(report).items():
        source = image_of[row["caption_from"].split("/")[1]]
        sources.setdefault(image_of[key], set()).add(source)
        assert (row["mismatched"] == "1") == (source != image_of[key])
    assert [len(found) for found in sources.values()] == [1] * 9
    assert report.mismatched > 9


def test_similar_swaps_captions_that_share_words(tmp_path):
    rows = [
        replace(
            row, caption=f"{topic} seen from place {row.key}", image=row.image + row.key.encode()
        )
        for row, topic in zip(make_rows(24), ["dogs", "cats", "boats"] * 8, strict=True)
    ]
    write_webdataset_shard(tmp_path / "in", "00000", rows)
    report = run(find_shards(tmp_path / "in"), tmp_path / "out", ratio=0.5, kind="similar")
    assert report.near == 1
    assert report.mismatched == 12
    topics = {row.key: row.caption.split()[0] for row in rows}
    for (_, key), row in read_truth(report).items():
        assert topics[row["caption_from"].split("/")[1]] == topics[key]


@pytest.mark.parametrize("kind", WRITERS)
def test_same_category_reads_the_column_of_the_shards(tmp_path, kind):
    shards = write_shards(tmp_path / "in", kind, counts=(30,))
    # The failed download has no caption of its own category: `status` is the same for all pairs.
    report = run(shards, tmp_path / "out", kind="same-category", category_column="status")
    assert report.near is None
    assert report.mismatched == 12
    _, columns = read(tmp_path / "in")
    report = run(shards, tmp_path / "by-url", kind="same-category", category_column="url")
    assert len({row["url"] for row in columns.values()}) == len(columns)
    assert report.mismatched == 0  # each is alone in its category


@pytest.mark.parametrize(
    ("kind", "category_column"), [("same-category", None), ("random", "status")]
)
def test_categories_and_their_kind_need_each_other(tmp_path, kind, category_column):
    shards = write_shards(tmp_path / "in")
    with pytest.raises(UsageError, match="need each other"):
        run(shards, tmp_path / "out", kind=kind, category_column=category_column)
    assert not (tmp_path / "out").exists()


def test_a_column_that_is_not_there_is_refused(tmp_path):
    shards = write_shards(tmp_path / "in")
    with pytest.raises(InputError, match="no column 'topic' of categories; it has caption, url"):
        run(shards, tmp_path / "out", kind="same-category", category_column="topic")


def test_repeated_keys_and_strange_captions_survive(tmp_path):
    members = []
    for number, caption in enumerate(
        ["犬\n", 'a, "b"', "  c", "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")]
    ):
        name = f"dir/k{number}"
        fields = json.dumps({"text": caption, "uid": number}).encode()
        members += [(f"{name}.JPG", b"image %d" % number), (f"{name}.json", fields)]
    members += [("dir/k0.JPG", b"again"), ("dir/k0.json", b'{"text": "second"}')]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.tar").write_bytes(tar_bytes(members))
    truth = read_truth(run(find_shards(tmp_path / "in"), tmp_path / "out", ratio=1, seed=2))
    with tarfile.open(tmp_path / "out" / "x.tar") as tar:
        content = [(m.name, tar.extractfile(m).read()) for m in tar]
    assert [name for name, _ in content] == [name for name, _ in members]
    assert content[-2:] == members[-2:]
    texts = {name.removesuffix(".json"): json.loads(data) for name, data in members[1:8:2]}
    for name, data in content[1:8:2]:
        key = name.removesuffix(".json")
        source = truth["x", key]["caption_from"].removeprefix("x/")
        assert json.loads(data) == {**texts[key], "text": texts[source]["text"]}


def test_zipped_tars_stay_zipped_and_reproducible(tmp_path):
    (tmp_path / "in").mkdir()
    data = tar_bytes(member for row in distinct_rows(8) for member in row_members(row))
    (tmp_path / "in" / "x.tar.gz").write_bytes(gzip.compress(data))
    for name in "ab":
        run(find_shards(tmp_path / "in"), tmp_path / name, ratio=1)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    with tarfile.open(tmp_path / "a" / "x.tar.gz", "r:gz") as tar:
        assert len(tar.getnames()) == 24
    samples, _ = read(tmp_path / "a")
    assert len(samples) == 8


def test_shards_of_another_storage_are_read(tmp_path):
    rows = distinct_rows(6)
    fs = fsspec.filesystem("memory")
    fs.pipe("/corrupt/00000.tar", tar_bytes(m for row in rows for m in row_members(row)))
    report = run(find_shards("memory://corrupt"), tmp_path / "out", ratio=1)
    assert report.pairs == 6


def test_progress_counts_every_pair_twice(tmp_path):
    counts: list[int] = []
    run(write_shards(tmp_path / "in"), tmp_path / "out", progress=counts.append)
    assert counts == [29, 19, 29, 19]


def test_an_interrupted_call_goes_on_where_it_stopped(tmp_path, monkeypatch):
    shards = write_shards(tmp_path / "in")
    run(shards, tmp_path / "whole")

    class Killed(BaseException):
        pass

    def killed(shard, out, *, captions):
        if shard.name == "00001":
            raise Killed
        rewrite(shard, out, captions=captions)

    rewrite = corrupt.rewrite_shard
    monkeypatch.setattr(corrupt, "rewrite_shard", killed)
    with pytest.raises(Killed):
        run(shards, tmp_path / "out")
    assert not (tmp_path / "out" / "truth.csv").exists()
    first = (tmp_path / "out" / "00000.tar").stat()
    with pytest.raises(Killed), replace_file(tmp_path / "out" / "00001.tar") as temporary:
        raise Killed
    temporary.write_bytes(b"half")
    monkeypatch.setattr(corrupt, "rewrite_shard", rewrite)
    with pytest.raises(InputError, match="other arguments"):
        run(shards, tmp_path / "out", seed=1)
    run(shards, tmp_path / "out")
    assert (tmp_path / "out" / "00000.tar").stat() == first
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("out", ["in", "in/inside", "in/../in", "link"])
def test_nothing_is_written_among_the_input(tmp_path, out):
    shards = write_shards(tmp_path / "in")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    untouched = files_of(tmp_path / "in")
    with pytest.raises(UsageError, match="never written to"):
        run(shards, tmp_path / out)
    assert files_of(tmp_path / "in") == untouched


def test_folders_with_other_files_are_refused(tmp_path):
    shards = write_shards(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not an empty folder"):
        run(shards, tmp_path / "out")
    with pytest.raises(InputError, match="not an empty folder"):
        run(shards, tmp_path / "out" / "mine.txt")
    assert files_of(tmp_path / "out") == {"mine.txt": b"mine"}


def test_damaged_shards_are_refused(tmp_path):
    shards = write_shards(tmp_path / "in")
    tar = tmp_path / "in" / "00001.tar"
    tar.write_bytes(tar.read_bytes()[:-5000])
    with pytest.raises(ShardError, match=r"00001\.tar is damaged"):
        run(shards, tmp_path / "out")


def test_bad_arguments_are_refused_before_anything_is_written(tmp_path):
    shards = write_shards(tmp_path / "in")
    with pytest.raises(UsageError, match="from 0 to 1"):
        run(shards, tmp_path / "out", ratio=2)
    assert not (tmp_path / "out").exists()
