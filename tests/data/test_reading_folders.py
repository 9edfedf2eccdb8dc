from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from builders import LIMITS, jpeg, make_rows, write_files_shard

from nccleaner.data.locations import find_shards
from nccleaner.data.reading import ShardReading
from nccleaner.errors import ShardError
from nccleaner.records import (
    CAPTION_TOO_LONG,
    DUPLICATE_KEY,
    IMAGE_TOO_LARGE,
    MISSING_IMAGE,
    OK,
    Sample,
)


def read(folder: Path) -> tuple[list[Sample], ShardReading]:
    [shard] = find_shards(folder)
    reading = ShardReading(shard, limits=LIMITS)
    samples = list(reading)
    assert reading.metadata()["key"].to_pylist() == [sample.key for sample in samples]
    return samples, reading


def test_img2dataset_folder(tmp_path: Path) -> None:
    rows = make_rows(4)
    rows[2] = replace(rows[2], image=None)
    write_files_shard(tmp_path, "00000", rows)

    samples, reading = read(tmp_path)

    found = {s.key: (s.image, s.caption, s.status) for s in samples}
    assert found == {
        row.key: (row.image, row.caption, OK if row.image else MISSING_IMAGE) for row in rows
    }
    assert reading.problem == ""
    assert set(reading.metadata()["url"].to_pylist()) == {row.fields["url"] for row in rows}


def test_folder_of_images_with_captions(tmp_path: Path) -> None:
    files = {
        "a.jpg": jpeg(),
        "a.txt": "ein Bär\n".encode(),
        "a-b.jpeg": jpeg(),
        "a-b.json": b'{"text": "second", "width": 3}',
        "b.PNG": jpeg(),
        "b.png": jpeg(),
        "b.txt": b"twice",
        "c.txt": b"no image",
        "d.jpg": b"x" * 20_001,
        "e.jpg": jpeg(),
        "e.txt": b"x" * 20_001,
        "README": b"",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "more.jpg").mkdir()

    samples, reading = read(tmp_path)

    assert [(s.key, s.caption, s.status) for s in samples] == [
        ("a", "ein Bär\n", OK),
        ("a-b", "second", OK),
        ("b", None, "empty_caption"),
        ("b", "twice", DUPLICATE_KEY),
        ("c", "no image", MISSING_IMAGE),
        ("d", None, IMAGE_TOO_LARGE),
        ("e", None, CAPTION_TOO_LONG),
    ]
    assert reading.problem.startswith("2 entries are folders or have no name of the form")


def test_file_that_was_lost_is_counted(tmp_path: Path) -> None:
    rows = make_rows(3)
    folder = write_files_shard(tmp_path, "00000", rows)
    (folder / f"{rows[1].key}.jpg").unlink()
    samples, reading = read(tmp_path)
    assert [s.status for s in samples] == [OK, MISSING_IMAGE, OK]
    assert reading.problem == "2 images found where its _stats.json counts 3"


def test_folder_that_vanished_is_an_error(tmp_path: Path) -> None:
    folder = write_files_shard(tmp_path, "00000", make_rows(1))
    [shard] = find_shards(tmp_path)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    with pytest.raises(ShardError, match="00000 cannot be read"):
        list(ShardReading(shard, limits=LIMITS))


def test_names_that_are_not_utf8_stay_apart(tmp_path: Path) -> None:
    """Were both `a\ufffd`, the image of one would get the caption of the other."""
    for name in (b"a\xff.jpg", b"a\xff.txt", b"a\xfe.jpg", b"a\xfd.txt"):
        (tmp_path / os.fsdecode(name)).write_bytes(jpeg() if name.endswith(b"g") else b"caption")
    samples, reading = read(tmp_path)
    assert len(samples) == 3
    assert sum(sample.status == OK for sample in samples) == 1
    assert {sample.key for sample in samples} == {"a\\xff", "a\\xfe", "a\\xfd"}
    assert reading.problem == ""
