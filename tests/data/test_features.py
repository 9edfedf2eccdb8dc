import hashlib
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from builders import Row, jpeg, make_rows, tar_bytes, write_parquet_shard, write_webdataset_shard

from nccleaner.data.decoding import DecodePool
from nccleaner.data.extracting import extract_part
from nccleaner.data.features import part_fingerprint, read_part
from nccleaner.data.images import decode_image, shrink
from nccleaner.data.locations import find_shards
from nccleaner.errors import InputError
from nccleaner.identity import derive_uid
from nccleaner.records import (
    DUPLICATE_KEY,
    EMPTY_CAPTION,
    MISSING_IMAGE,
    OK,
    UNDECODABLE_IMAGE,
    ImageSpec,
    Limits,
)

LIMITS = Limits(
    max_image_pixels=1_000_000,
    max_caption_chars=1000,
    decode_timeout_s=10,
    max_member_bytes=1 << 24,
)


class ColorEncoder:
    """A real, small encoder: mean colors through a fixed linear layer. Counts what it is given."""

    name, fingerprint, width, spec = "color", "color 1", 5, ImageSpec(size_px=8)

    def __init__(self, scale: float = 1.0) -> None:
        self.layer = torch.nn.Linear(3, 5)
        torch.nn.init.normal_(self.layer.weight, generator=torch.Generator().manual_seed(0))
        torch.nn.init.zeros_(self.layer.bias)
        self.scale = scale
        self.batches: list[int] = []

    @torch.inference_mode()
    def encode(self, images):
        self.batches.append(len(images))
        means = torch.tensor(images).float().mean((1, 2)) / 255
        return (self.scale * self.layer(means)).numpy()

    def start(self, images):
        features = self.encode(images)
        return lambda: features


class LengthEncoder:
    """Encodes a caption as its length and its number of spaces."""

    name, fingerprint, width = "length", "length 1", 2

    def __init__(self) -> None:
        self.seen: list[str] = []

    def encode(self, captions):
        self.seen += captions
        return np.array([[len(text), text.count(" ")] for text in captions], np.float32)


def shard_in(folder):
    (shard,) = find_shards(folder)
    return shard


def fingerprint_of(shard, limits=LIMITS, text="length 1"):
    return part_fingerprint(shard, ColorEncoder.fingerprint, text, limits)


def extract(shard, root, **overrides):
    arguments = {
        "root": root,
        "fingerprint": fingerprint_of(shard),
        "image_encoder": ColorEncoder(),
        "text_encoder": LengthEncoder(),
        "pool": DecodePool(workers=0),
        "limits": LIMITS,
        "batch_size": 4,
        "on_samples": lambda count: None,
    }
    return extract_part(shard, **(arguments | overrides))


@pytest.fixture
def shard(tmp_path):
    write_webdataset_shard(tmp_path / "in", "00000", make_rows(23))
    return shard_in(tmp_path / "in")


@pytest.fixture
def root(tmp_path):
    return tmp_path / "features"


def test_the_features_are_those_of_each_sample(shard, root, tmp_path):
    encoder = ColorEncoder()
    part = extract(shard, root, image_encoder=encoder)
    rows = make_rows(23)
    assert part.samples["key"].to_pylist() == [row.key for row in rows]
    for sample, row in zip(part.samples.to_pylist(), rows, strict=True):
        assert (sample["status"], sample["detail"], sample["caption"]) == (OK, "", row.caption)
        assert sample["image_sha256"] == hashlib.sha256(row.image).hexdigest()
        assert sample["url"] == row.fields["url"]
        assert sample["uid"] == derive_uid("00000", row.key)
        pixels = decode_image(row.image, spec=encoder.spec, limits=LIMITS)
        expected = encoder.encode(pixels[None])[0]
        assert np.allclose(part.image[sample["image_row"]], expected, atol=1e-3)
        assert part.text[sample["text_row"]].tolist() == [len(row.caption), row.caption.count(" ")]
    assert part.metadata["width"].type == pa.int32()
    assert part.metadata["key"].to_pylist() == part.samples["key"].to_pylist()
    assert (part.report.samples, part.report.pairs, part.report.rejects) == (23, 23, {})


def test_images_and_captions_that_repeat_are_encoded_once(tmp_path, root):
    rows = [Row(f"{i:09d}", f"caption {i % 3}", jpeg(("red", "blue")[i % 2])) for i in range(20)]
    write_webdataset_shard(tmp_path / "in", "00000", rows)
    images, captions = ColorEncoder(), LengthEncoder()
    part = extract(shard_in(tmp_path / "in"), root, image_encoder=images, text_encoder=captions)
    assert images.batches == [2]
    assert captions.seen == ["caption 0", "caption 1", "caption 2"]
    assert part.samples["image_row"].to_pylist() == [i % 2 for i in range(20)]
    assert part.samples["text_row"].to_pylist() == [i % 3 for i in range(20)]
    assert (part.image.shape, part.text.shape) == ((2, 5), (3, 2))
    assert part.image.dtype == part.text.dtype == np.float16


def test_the_encoder_gets_full_batches_in_order(shard, root):
    encoder = ColorEncoder()
    part = extract(shard, root, image_encoder=encoder)
    assert encoder.batches == [4, 4, 1], "nine different drawings"
    assert part.samples["image_row"].to_pylist()[:12] == [*range(9), 0, 1, 2]


def test_the_next_batch_is_started_before_the_last_is_waited_for(shard, root):
    class PatientEncoder(ColorEncoder):
        """Notes when a batch is started and when its features are fetched."""

        def start(self, images):
            wait = super().start(images)
            number = len(self.batches)
            events.append(f"start {number}")
            return lambda: events.append(f"fetch {number}") or wait()

    events: list[str] = []
    part = extract(shard, root, image_encoder=PatientEncoder())
    assert events == ["start 1", "start 2", "fetch 1", "start 3", "fetch 2", "fetch 3"]
    assert np.array_equal(part.image, extract(shard, root).image)


def test_rejects_are_rows_with_their_reasons(tmp_path, root):
    broken = b"\xff\xd8\xff no JPEG"
    members = [
        ("good.jpg", jpeg()), ("good.txt", b"a square"),
        ("broken.jpg", broken), ("broken.txt", b"nothing"),
        ("again.jpg", broken), ("again.txt", b"a broken one that repeats"),
        ("silent.jpg", jpeg()), ("silent.txt", b" "),
        ("blind.txt", b"a caption"),
        ("good.jpg", jpeg("blue")), ("good.txt", b"a key that repeats"),
    ]  # fmt: skip
    (tmp_path / "00000.tar").write_bytes(tar_bytes(members))
    captions = LengthEncoder()
    part = extract(shard_in(tmp_path / "00000.tar"), root, text_encoder=captions)
    statuses = [
        OK,
        UNDECODABLE_IMAGE,
        UNDECODABLE_IMAGE,
        EMPTY_CAPTION,
        MISSING_IMAGE,
        DUPLICATE_KEY,
    ]
    assert part.samples["status"].to_pylist() == statuses
    assert part.samples["image_row"].to_pylist() == [0, -1, -1, -1, -1, -1]
    assert part.samples["text_row"].to_pylist() == [0, -1, -1, -1, -1, -1]
    assert captions.seen == ["a square"]
    assert all(part.samples["detail"].to_pylist()[1:])
    assert part.report.rejects == {
        UNDECODABLE_IMAGE: 2, EMPTY_CAPTION: 1, MISSING_IMAGE: 1, DUPLICATE_KEY: 1
    }  # fmt: skip
    assert (part.report.samples, part.report.pairs) == (6, 1)


def test_a_shard_without_pairs_gives_an_empty_part(tmp_path, root):
    write_webdataset_shard(tmp_path / "in", "00000", [])
    shard = shard_in(tmp_path / "in")
    part = extract(shard, root)
    assert (part.image.shape, part.text.shape, len(part.samples)) == ((0, 5), (0, 2), 0)
    assert part.report.problem
    assert read_part(part.folder, fingerprint_of(shard)).report == part.report


def test_own_uids_are_kept_and_others_derived(tmp_path, root):
    fields = [
        {"uid": "0123456789abcdef" * 2, "url": "http://example.org/0"},
        {"uid": "not a uid"},
        {"url": None},
    ]
    members = []
    for number, field in enumerate(fields):
        members += [(f"{number}.jpg", jpeg()), (f"{number}.txt", b"a square")]
        members += [(f"{number}.json", json.dumps(field).encode())]
    (tmp_path / "s.tar").write_bytes(tar_bytes(members))
    part = extract(shard_in(tmp_path / "s.tar"), root)
    assert part.samples["uid"].to_pylist() == [
        "0123456789abcdef" * 2, derive_uid("s", "1"), derive_uid("s", "2")
    ]  # fmt: skip
    assert part.samples["url"].to_pylist() == ["http://example.org/0", None, None]


def test_a_url_column_that_is_no_text_is_not_a_url(tmp_path, root):
    members = [("0.jpg", jpeg()), ("0.txt", b"a square"), ("0.json", b'{"url": ["a", "b"]}')]
    (tmp_path / "s.tar").write_bytes(tar_bytes(members))
    part = extract(shard_in(tmp_path / "s.tar"), root)
    assert part.samples["url"].to_pylist() == [None]
    assert part.metadata["url"].to_pylist() == [["a", "b"]]


def test_without_a_text_encoder_there_are_no_text_features(shard, root):
    part = extract(shard, root, text_encoder=None)
    assert part.text is None
    assert not (part.folder / "text.npy").exists()
    assert set(part.samples["text_row"].to_pylist()) == {-1}
    assert read_part(part.folder, fingerprint_of(shard)).text is None


def test_targets_are_what_the_encoder_saw_small(shard, root):
    class LargeEncoder(ColorEncoder):
        spec = ImageSpec(size_px=96)

    part = extract(shard, root, image_encoder=LargeEncoder(), with_targets=True)
    rows = make_rows(23)
    assert part.target.dtype == np.uint8
    assert part.target.shape == (9, 64, 64, 3), "nine different drawings"
    for sample, row in zip(part.samples.to_pylist(), rows, strict=True):
        seen = decode_image(row.image, spec=LargeEncoder.spec, limits=LIMITS)
        assert np.array_equal(part.target[sample["image_row"]], shrink(seen, size_px=64))


def test_a_part_with_targets_serves_without_but_not_the_other_way(shard, root):
    fingerprint = fingerprint_of(shard)
    bare = extract(shard, root)
    assert bare.target is None
    assert read_part(root / "00000", fingerprint) is not None
    assert read_part(root / "00000", fingerprint, with_targets=True) is None

    full = extract(shard, root, with_targets=True)
    for wanted in (True, False):
        part = read_part(root / "00000", fingerprint, with_targets=wanted)
        assert np.array_equal(part.target, full.target)
        assert np.array_equal(part.image, bare.image)
        assert isinstance(part.target, np.memmap)


def test_workers_change_no_bit(tmp_path, root):
    write_parquet_shard(tmp_path / "in", "00000", make_rows(150))
    shard = shard_in(tmp_path / "in")
    extract(shard, root / "inline")
    with DecodePool(workers=2) as pool:
        extract(shard, root / "workers", pool=pool)
    files = sorted(path.name for path in (root / "inline/00000").iterdir())
    assert files == ["image.npy", "metadata.parquet", "part.json", "samples.parquet", "text.npy"]
    for name in files:
        first, second = (
            (root / way / "00000" / name).read_bytes() for way in ("inline", "workers")
        )
        assert first == second, name


def test_progress_counts_every_sample(shard, root):
    counts: list[int] = []
    extract(shard, root, on_samples=counts.append)
    assert sum(counts) == 23


def test_a_part_is_read_back(shard, root):
    written = extract(shard, root)
    read = read_part(root / "00000", fingerprint_of(shard))
    assert read == written
    assert read.samples.equals(written.samples)
    assert np.array_equal(read.image, written.image)
    assert isinstance(read.image, np.memmap)


@pytest.mark.parametrize(
    "change",
    [
        {"url": "/elsewhere/00000.tar"},
        {"size_bytes": 7},
        {"version": "another"},
        {"sidecar_url": None},
        {"name": "00001"},
    ],
)
def test_another_shard_is_not_served(shard, root, change):
    extract(shard, root)
    assert read_part(root / "00000", fingerprint_of(replace(shard, **change))) is None


def test_other_encoders_or_limits_are_not_served(shard, root):
    extract(shard, root)
    assert (
        read_part(root / "00000", fingerprint_of(shard, replace(LIMITS, max_image_pixels=9)))
        is None
    )
    assert read_part(root / "00000", fingerprint_of(shard, text="length 2")) is None
    assert read_part(root / "00000", fingerprint_of(shard, text=None)) is None
    assert read_part(root / "00000", fingerprint_of(shard)) is not None


def test_damaged_parts_count_as_absent(shard, root):
    fingerprint = fingerprint_of(shard)
    assert read_part(root / "00000", fingerprint) is None
    extract(shard, root, with_targets=True)
    arrays = ("image.npy", "text.npy", "target.npy")
    for name in (*arrays, "samples.parquet", "metadata.parquet", "part.json"):
        path = root / "00000" / name
        whole = path.read_bytes()
        for damaged in (whole[: len(whole) // 2], b""):
            path.write_bytes(damaged)
            assert read_part(root / "00000", fingerprint) is None, name
        path.unlink()
        assert read_part(root / "00000", fingerprint) is None, name
        path.write_bytes(whole)
    assert read_part(root / "00000", fingerprint) is not None
    (root / "00000/part.json").write_text("[]")
    assert read_part(root / "00000", fingerprint) is None


class InterruptionError(Exception):
    pass


def interrupt(count: int) -> None:
    raise InterruptionError


def test_an_interrupted_extraction_leaves_nothing(shard, root):
    with pytest.raises(InterruptionError):
        extract(shard, root, on_samples=interrupt)
    assert list(root.iterdir()) == []


def test_an_interrupted_extraction_leaves_the_earlier_part(shard, root):
    extract(shard, root)
    with pytest.raises(InterruptionError):
        extract(shard, root, on_samples=interrupt)
    assert [path.name for path in root.iterdir()] == ["00000"]
    assert read_part(root / "00000", fingerprint_of(shard)) is not None


def test_an_extraction_replaces_the_earlier_part(shard, root):
    extract(shard, root)
    part = extract(shard, root, text_encoder=None, fingerprint="another")
    assert read_part(part.folder, fingerprint_of(shard)) is None
    assert read_part(part.folder, "another").text is None
    assert [path.name for path in root.iterdir()] == ["00000"]


@pytest.mark.parametrize("scale", [1e9, float("nan")])
def test_features_that_no_float16_can_hold_are_an_error(shard, root, scale):
    with pytest.raises(InputError, match="The encoder color gives features"):
        extract(shard, root, image_encoder=ColorEncoder(scale))
    assert list(root.iterdir()) == []
