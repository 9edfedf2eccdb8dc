"""Trusted pairs against the shards: all ways to name one, and all ways to fail."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from builders import jpeg
from smallfit import tiny, write_csv

from nccleaner.data.trusted import read_trusted
from nccleaner.errors import TrustedError
from nccleaner.identity import derive_uid
from nccleaner.pipeline.backbones import Backbones, limits_of
from nccleaner.pipeline.extraction import FeatureStore
from nccleaner.pipeline.labelled import read_labelled
from nccleaner.pipeline.pool import build_tables
from nccleaner.pipeline.reporter import SilentReporter
from nccleaner.pipeline.workspace import RunDescription

COLUMNS = ["key", "uid", "url", "image", "shard", "caption", "label"]


@pytest.fixture(scope="module")
def backbones():
    return Backbones(tiny().encoders)


@pytest.fixture(scope="module")
def read(fitted, backbones):
    """Reads a trusted file against the shards of the shared fit."""
    description = RunDescription.read(fitted.run / "run.json")
    store = FeatureStore(
        fitted.run / "features",
        backbones,
        description.config.data,
        description.image_encoder,
        description.text_encoder,
    )
    parts = store.parts(description.shards, SilentReporter())

    def read_file(path, sample=0.0):
        labelled = read_labelled(
            read_trusted(path, label_required=sample > 0),
            description.shards,
            parts,
            backbones=backbones,
            limits=limits_of(description.config.data),
            sample=sample,
            seed=0,
        )
        return labelled, description.shards, parts

    return read_file


def by_key(clipart, count=20):
    return [{"key": key} for key in clipart.trusted[:count]]


def write(folder, rows):
    path = folder / "trusted.csv"
    return write_csv(path, COLUMNS, [[row.get(name, "") for name in COLUMNS] for row in rows])


def feature_of(parts, shards, key):
    for shard, part in zip(shards, parts, strict=True):
        rows = {row["key"]: row for row in part.samples.to_pylist()}
        if key in rows:
            return shard.name, part.image[rows[key]["image_row"]], part.text[rows[key]["text_row"]]
    raise AssertionError(key)


def test_a_pair_is_named_by_key_uid_url_or_image(read, clipart, tmp_path):
    one, two, three, four = (
        next(row for row in clipart.rows if row.key == key) for key in clipart.trusted[20:24]
    )
    first = clipart.rows.index(two) < 140
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "four.jpg").write_bytes(four.image)
    named = [
        {"key": one.key},
        {"uid": derive_uid("00000" if first else "00001", two.key)},
        {"url": f"http://example.org/{three.key}.jpg"},
        {"image": "images/four.jpg", "caption": four.caption},
    ]
    labelled, shards, parts = read(write(tmp_path, by_key(clipart) + named))

    assert labelled.problems == ()
    for row, item in zip((one, two, three, four), labelled.pairs[20:], strict=True):
        shard, image, text = feature_of(parts, shards, row.key)
        assert item.pair.caption == row.caption
        assert item.image_sha256 == hashlib.sha256(row.image).hexdigest()
        # An image of its own is encoded alone: other sums, rounded otherwise.
        np.testing.assert_allclose(item.image, image, atol=2e-2)
        np.testing.assert_allclose(item.text, text, atol=2e-3)
        assert item.pair.shard == (None if row is four else shard)


def test_a_caption_of_the_file_overrides_that_of_the_shard(read, backbones, clipart, tmp_path):
    rows = [*by_key(clipart), {"key": clipart.trusted[30], "caption": "something else"}]
    labelled, shards, parts = read(write(tmp_path, rows))

    item = labelled.pairs[-1]
    _, image, text = feature_of(parts, shards, clipart.trusted[30])
    assert item.pair.overrides_caption
    np.testing.assert_array_equal(item.image, image)
    assert not np.allclose(item.text, text, atol=1e-2)
    expected = backbones.text.encode(["something else"])[0]
    np.testing.assert_allclose(item.text, expected, atol=2e-3)


def test_rows_that_cannot_be_used_are_named_by_their_number(read, clipart, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "folder.jpg").mkdir()
    rows = [
        *by_key(clipart),  # rows 2 to 21
        {"image": "broken.jpg", "caption": "a"},
        {"image": "missing.jpg", "caption": "a"},
        {"image": "folder.jpg", "caption": "a"},
        {"image": "../../../etc/passwd", "caption": "a"},
        {"key": "nobody"},
        {"uid": "0" * 32},
        {"url": "http://nowhere"},
        {"key": clipart.trusted[0]},
        {"key": clipart.trusted[40], "label": "maybe"},
        {"key": clipart.trusted[41], "shard": "00009"},
    ]
    labelled, _, _ = read(write(tmp_path, rows))

    assert len(labelled.pairs) == 20
    assert [problem.row for problem in labelled.problems] == list(range(22, 32))
    assert "undecodable_image" in labelled.problems[0].reason
    assert all(problem.reason for problem in labelled.problems)
    assert "only 20 usable pairs" in labelled.warning


def test_pairs_whose_images_do_not_decode_do_not_count(read, clipart, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    rows = [*by_key(clipart, 19), {"image": "broken.jpg", "caption": "a"}]

    with pytest.raises(TrustedError, match=r"usable pairs: 19.*row 21"):
        read(write(tmp_path, rows))


def test_an_image_file_that_is_also_in_the_shards_takes_its_pair_out_of_the_pool(
    read, clipart, tmp_path
):
    own = next(row for row in clipart.rows if row.key == clipart.trusted[50])
    (tmp_path / "own.jpg").write_bytes(own.image)
    (tmp_path / "new.jpg").write_bytes(jpeg("green", "circle"))
    outside = [
        {"image": "own.jpg", "caption": own.caption},
        {"image": "new.jpg", "caption": "a green circle"},
    ]
    labelled, shards, parts = read(write(tmp_path, by_key(clipart, 40) + outside))

    tables = build_tables(shards, parts, labelled.pairs, config=tiny(), folder=tmp_path / "tables")

    keys = tables.pool_samples["key"].to_pylist()
    assert own.key not in keys
    assert len(tables.pool) == 240 - 41 + (~tables.probe_exchanged).sum()
    images = {row for pairs in tables.meta for row in pairs.image_rows.tolist()}
    images |= {row for pairs in tables.held_out for row in pairs.image_rows.tolist()}
    noisy = set(tables.pool.image_rows[: -len(tables.probe_matched)].tolist())
    assert not images & noisy


@pytest.mark.parametrize("captions", ["equal", "one image"])
def test_probes_that_cannot_be_exchanged_are_refused(read, clipart, tmp_path, captions):
    (tmp_path / "one.jpg").write_bytes(jpeg())
    rows = [
        {"key": key, "caption": "a drawing"}
        if captions == "equal"
        else {"image": "one.jpg", "caption": f"a red square, number {number}"}
        for number, key in enumerate(clipart.trusted[:40])
    ]
    labelled, shards, parts = read(write(tmp_path, rows))

    with pytest.raises(TrustedError):
        build_tables(shards, parts, labelled.pairs, config=tiny(), folder=tmp_path / "tables")


def judged(rows):
    """Says of every row what it is, as a sample must."""
    return [{"label": "1", **row} for row in rows]


def test_a_sample_is_set_aside_by_seed(read, clipart, tmp_path):
    path = write(tmp_path, judged(by_key(clipart, count=60)))

    labelled, _, _ = read(path, sample=0.25)

    assert len(labelled.set_aside) == 15
    assert len(labelled.pairs) == 45
    rows = [item.pair.row for item in (*labelled.pairs, *labelled.set_aside)]
    assert sorted(rows) == list(range(2, 62))
    again, _, _ = read(path, sample=0.25)
    assert [item.pair for item in again.set_aside] == [item.pair for item in labelled.set_aside]


def test_pairs_that_the_shards_do_not_hold_are_no_sample_of_them(read, clipart, tmp_path):
    rows = judged(by_key(clipart))
    rows[3]["caption"] = "what somebody else saw in it"

    with pytest.raises(TrustedError, match="not in them as labelled; the first is row 5"):
        read(write(tmp_path, rows), sample=0.5)


def test_what_is_left_must_be_enough_to_fit(read, clipart, tmp_path):
    with pytest.raises(TrustedError, match="needed are 20"):
        read(write(tmp_path, judged(by_key(clipart, count=30))), sample=0.5)
