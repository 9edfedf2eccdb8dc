"""Shards that are cut, or in which bits have flipped: what is read is right, what is lost is told.

Cuts: each of five shards of 6 samples (a tar, the same with img2dataset's Parquet and statistics
beside it, both compressed with gzip, a Parquet shard) at every 512th byte and at 400 random ones.
Flips of one bit: 2,000, of them 600 in images (200 JPEG, PNG and WEBP each), 500 in JSON members,
500 in headers of tars, 400 in Parquet shards.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from builders import (
    LIMITS,
    make_rows,
    row_members,
    tar_bytes,
    write_parquet_shard,
    write_sidecar,
)
from PIL import Image

from nccleaner.data.decoding import DecodePool
from nccleaner.data.images import ImageRejected
from nccleaner.data.reading import ShardReading
from nccleaner.records import (
    EMPTY_CAPTION,
    IMAGE_TOO_LARGE,
    OK,
    TRUNCATED_SHARD,
    UNDECODABLE_IMAGE,
    UNREADABLE_METADATA,
    ImageSpec,
    Sample,
    Shard,
)

# One shard is read, or one image decoded, within this many seconds.
LIMIT_S = 5.0


def noise(seed: int, kind: str = "JPEG") -> bytes:
    """An image that no compressor makes smaller, so that cuts and flips meet it."""
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind)
    return data.getvalue()


ROWS = [replace(row, image=noise(number)) for number, row in enumerate(make_rows(6))]


@dataclass
class Form:
    """A way to store the samples."""

    shard: Shard
    data: bytes

    @cached_property
    def whole(self) -> dict[str, tuple[Sample, dict[str, object]]]:
        """What is read of it without damage."""
        found, problem = read(self, self.data)
        assert problem == ""
        assert [sample.key for sample, _ in found] == [row.key for row in ROWS]
        return {sample.key: (sample, row) for sample, row in found}

    @property
    def has_witness(self) -> bool:
        """Whether something beside the shard tells what was in it."""
        return self.shard.sidecar_url is not None


def make_form(name: str, folder: Path) -> Form:
    path = folder / "00000.tar"
    if name == "parquet":
        path = write_parquet_shard(folder, "00000", ROWS, row_group_size=2)
        return Form(Shard("00000", str(path), "parquet"), path.read_bytes())
    data = tar_bytes(member for row in ROWS for member in row_members(row))
    if name.startswith("gzip"):
        data = gzip.compress(data, mtime=0)
    shard = Shard("00000", str(path), "webdataset")
    if name.endswith("sidecar"):
        write_sidecar(folder, "00000", ROWS)
        beside = str(folder / "00000")
        shard = replace(shard, sidecar_url=f"{beside}.parquet", stats_url=f"{beside}_stats.json")
    return Form(shard, data)


@pytest.fixture(params=["tar", "tar and sidecar", "gzip", "gzip and sidecar", "parquet"])
def form(request, tmp_path) -> Form:
    return make_form(request.param, tmp_path)


def read(form: Form, data: bytes) -> tuple[list[tuple[Sample, dict[str, object]]], str]:
    """Reads the shard with other content: its samples with their metadata, and its problem."""
    Path(form.shard.url).write_bytes(data)
    start = time.monotonic()
    reading = ShardReading(form.shard, limits=LIMITS)
    samples = list(reading)
    rows = reading.metadata().to_pylist()
    assert time.monotonic() - start < LIMIT_S
    return list(zip(samples, rows, strict=True)), reading.problem


def check(form: Form, data: bytes) -> int:
    """Reads a damaged shard: samples are as they were or told of as lost. Returns how many are."""
    found, problem = read(form, data)
    keys = [sample.key for sample, _ in found]
    assert len(keys) == len(set(keys))
    assert set(keys) <= set(form.whole)
    good = [sample.key for sample, row in found if (sample, row) == form.whole[sample.key]]
    assert good == [sample.key for sample, _ in found if sample.status == OK]
    assert {sample.status for sample, _ in found} <= {OK, TRUNCATED_SHARD}
    if len(good) < len(ROWS):
        assert problem
        if form.has_witness:
            assert set(keys) == set(form.whole)
            assert f"{len(good)} images found where its _stats.json counts 6" in problem
        elif form.shard.kind == "webdataset":
            assert "how many samples are lost is not known" in problem
    return len(good)


def test_every_cut_reads_whole_or_tells_what_was_lost(form: Form) -> None:
    size = len(form.data)
    chosen = random.Random(0)
    cuts = {*range(0, size, 512), *(chosen.randrange(size) for _ in range(400))}
    good = [check(form, form.data[:cut]) for cut in sorted(cuts)]
    # What was whole before a cut is used, but of Parquet, whose table of contents is at its end.
    assert good == sorted(good)
    assert set(good) == ({0} if form.shard.kind == "parquet" else set(range(len(ROWS) + 1)))
    assert check(form, form.data) == len(ROWS)


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_bit_flipped_in_an_image_gives_pixels_or_a_reject(kind: str) -> None:
    chosen = random.Random(kind)
    whole = noise(0, kind)
    images = [(n, flipped(whole, chosen.randrange(8 * len(whole)))) for n in range(200)]
    limits = replace(LIMITS, decode_timeout_s=LIMIT_S)
    with DecodePool(workers=1) as pool:
        decoded = list(pool.decode(images, spec=ImageSpec(size_px=8), limits=limits))
    assert [number for number, _ in decoded] == list(range(200))
    rejects = [image for _, image in decoded if isinstance(image, ImageRejected)]
    assert {reject.reason for reject in rejects} <= {UNDECODABLE_IMAGE, IMAGE_TOO_LARGE}
    assert all("died" not in reject.detail for reject in rejects)
    assert 0 < len(rejects) < 200


def test_a_bit_flipped_in_a_json_member_costs_that_sample_at_most(tmp_path: Path) -> None:
    chosen = random.Random(0)
    members = []
    for number in range(500):
        row = ROWS[number % len(ROWS)]
        document = json.dumps(row.fields).encode()
        document = flipped(document, chosen.randrange(8 * len(document)))
        members += [(f"{number}.jpg", row.image), (f"{number}.json", document)]
    form = Form(Shard("00000", str(tmp_path / "00000.tar"), "webdataset"), tar_bytes(members))

    found, problem = read(form, form.data)

    assert [sample.key for sample, _ in found] == [str(number) for number in range(500)]
    counts = Counter(sample.status for sample, _ in found)
    assert set(counts) == {OK, UNREADABLE_METADATA, EMPTY_CAPTION}
    assert counts[OK] > 250
    assert problem == ""
    assert all(sample.image == ROWS[n % len(ROWS)].image for n, (sample, _) in enumerate(found))


@pytest.mark.parametrize("name", ["tar", "tar and sidecar"])
def test_a_bit_flipped_in_a_header_of_a_tar_is_found(name: str, tmp_path: Path) -> None:
    form = make_form(name, tmp_path)
    chosen = random.Random(name)
    with tarfile.open(fileobj=io.BytesIO(form.data)) as tar:
        headers = [member.offset for member in tar]
    good = Counter(
        check(form, flipped(form.data, 8 * chosen.choice(headers) + chosen.randrange(8 * 512)))
        for _ in range(250)
    )
    # A few bits beside the check sum mean nothing.
    assert set(good) >= set(range(len(ROWS)))
    assert good[len(ROWS)] < 25


@pytest.mark.parametrize("part", ["pages", "footer"])
def test_a_bit_flipped_in_parquet_is_survived_and_counted(part: str, tmp_path: Path) -> None:
    form = make_form("parquet", tmp_path)
    chosen = random.Random(part)
    end = len(form.data)
    footer = end - 8 - pq.read_metadata(form.shard.url).serialized_size
    lost = 0
    for _ in range(200):
        byte = chosen.randrange(footer) if part == "pages" else chosen.randrange(footer, end)
        found, problem = read(form, flipped(form.data, 8 * byte + chosen.randrange(8)))
        assert len(found) == len(ROWS) or problem
        assert len(found) <= len(ROWS)
        lost += sum(sample.status == OK for sample, _ in found) < len(ROWS)
    assert lost > 20
