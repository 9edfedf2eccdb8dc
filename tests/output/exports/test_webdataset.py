import hashlib
import io
import json
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import open_clip
import pytest
from builders import LIMITS, Row, make_rows, write_webdataset_shard
from open_clip_train.data import get_wds_dataset
from PIL import Image
from portions import write_all
from purged import purge_shards
from tinyclip import train_on, write_tiny_clip
from wdsreading import files_left_open, read_tars

from nccleaner.data.locations import find_shards
from nccleaner.data.reading import ShardReading
from nccleaner.errors import ShardError
from nccleaner.output.exports.kept import KeptPairs
from nccleaner.output.exports.webdataset import TarFolder
from nccleaner.records import OK

SIZE = 4


def png(number: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 0)).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def pairs(tmp_path: Path) -> KeptPairs:
    """13 pairs of three shards, 10 of them kept; the fourth that is kept has a PNG."""
    for number, count in enumerate((6, 3, 4)):
        rows = make_rows(count, shard_id=number)
        if number == 0:
            rows[4] = Row(rows[4].key, "é ünïcode, \t\n twice", png(4))
        write_webdataset_shard(tmp_path / "shards", f"{number:05d}", rows)
    return purge_shards(tmp_path / "shards", tmp_path / "clean", lambda key: key[-1] != "1")


def write(pairs: KeptPairs, out: Path) -> list[int]:
    done: list[int] = []
    write_all(TarFolder(out), pairs, samples_per_shard=SIZE, progress=done.append)
    return done


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_webdataset_reads_every_pair_as_it_was(pairs: KeptPairs, tmp_path: Path) -> None:
    assert sum(write(pairs, tmp_path / "out")) == len(pairs) == 10
    samples = read_tars(tmp_path / "out")
    for sample, pair in zip(samples, pairs.read(), strict=True):
        assert set(sample) - {"__key__", "__url__", "__local_path__"} == {
            pair.suffix,
            "txt",
            "json",
        }
        assert sample[pair.suffix] == pair.image
        assert sample["txt"].decode() == pair.caption
        assert json.loads(sample["json"]) == pair.fields
    assert [sample["__key__"] for sample in samples] == [
        f"{shard:05d}{row}" for shard, count in enumerate((4, 4, 2)) for row in range(count)
    ]
    assert [pair.suffix for pair in pairs.read()].count("png") == 1


def test_its_neighbours_find_the_counts(pairs: KeptPairs, tmp_path: Path) -> None:
    write(pairs, tmp_path / "out")
    names = sorted(contents(tmp_path / "out"))
    assert names == [
        *(f"{n:05d}{end}" for n in range(3) for end in (".tar", "_stats.json")),
        "README.md",
        "sizes.json",
    ]
    sizes = json.loads((tmp_path / "out" / "sizes.json").read_text())
    assert sizes == {"00000.tar": 4, "00001.tar": 4, "00002.tar": 2}
    for tar, count in sizes.items():
        stats = json.loads((tmp_path / "out" / tar.replace(".tar", "_stats.json")).read_text())
        assert stats["successes"] == count


def test_our_own_reader_finds_nothing_wrong(pairs: KeptPairs, tmp_path: Path) -> None:
    write(pairs, tmp_path / "out")
    captions = []
    for shard in find_shards(tmp_path / "out"):
        reading = ShardReading(shard, limits=LIMITS)
        captions += [sample.caption for sample in reading if sample.status == OK]
        assert reading.problem == ""
    assert captions == [pair.caption for pair in pairs.read()]


def test_equal_pairs_give_equal_bytes_and_the_input_keeps_its_own(
    pairs: KeptPairs, tmp_path: Path
) -> None:
    before = contents(tmp_path / "shards")
    write(pairs, tmp_path / "one")
    write(pairs, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert contents(tmp_path / "shards") == before


@pytest.mark.parametrize("stop", range(12))
def test_it_goes_on_where_it_was_interrupted(pairs: KeptPairs, tmp_path: Path, stop: int) -> None:
    write(pairs, tmp_path / "whole")
    calls = 0

    def interrupt(count: int) -> None:
        nonlocal calls
        calls += 1
        if calls > stop:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    try:
        write_all(TarFolder(out), pairs, samples_per_shard=SIZE, progress=interrupt)
    except KeyboardInterrupt:
        whole = {*contents(tmp_path / "whole").items()}
        assert {*contents(out).items()} <= whole
        assert not (out / "sizes.json").exists()
    written = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert sum(write(pairs, out)) == len(pairs)
    assert contents(out) == contents(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in written} == written


@pytest.mark.parametrize("gone", ["00000.tar", "00001.tar", "00001_stats.json", "00002.tar"])
def test_what_was_removed_comes_back_as_it_was(pairs: KeptPairs, tmp_path: Path, gone: str) -> None:
    write(pairs, tmp_path / "out")
    whole = contents(tmp_path / "out")
    (tmp_path / "out" / gone).unlink()
    write(pairs, tmp_path / "out")
    assert contents(tmp_path / "out") == whole


def test_a_damaged_shard_leaves_no_tar_that_lacks_a_pair(pairs: KeptPairs, tmp_path: Path) -> None:
    path = tmp_path / "shards" / "00002.tar"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ShardError, match="00002"):
        write(pairs, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").glob("*.tar")] == ["00000.tar"]


def test_open_clip_trains_on_it(pairs: KeptPairs, tmp_path: Path) -> None:
    write(pairs, tmp_path / "out")
    architecture, _ = write_tiny_clip(tmp_path)
    _, preprocess, _ = open_clip.create_model_and_transforms(architecture)
    args = SimpleNamespace(
        train_data=str(tmp_path / "out" / "{00000..00002}.tar"),
        train_num_samples=None,  # sizes.json says it
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        seed=0,
        batch_size=5,
        workers=1,
        world_size=1,
    )
    tokenizer = open_clip.get_tokenizer(architecture)
    with files_left_open():
        data = get_wds_dataset(args, preprocess, is_train=True, tokenizer=tokenizer)
    assert (data.dataloader.num_samples, data.dataloader.num_batches) == (10, 2)
    # Read in this process: its own workers would outlive the test.
    with files_left_open():
        batches = list(islice(data.dataloader.pipeline[0].dataset, 2))
    assert sum(len(images) for images, _ in batches) == 10
    wanted = {tuple(tokenizer(pair.caption)[0].tolist()) for pair in pairs.read()}
    assert {tuple(text.tolist()) for _, texts in batches for text in texts} == wanted

    before, after = train_on(batches[0], architecture)
    assert after < before
