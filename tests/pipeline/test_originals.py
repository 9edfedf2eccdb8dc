import base64
import io

import pytest
from builders import LIMITS, Row, jpeg, make_rows, serve, tar_bytes, write_webdataset_shard
from PIL import Image

from nccleaner.config import DataConfig
from nccleaner.data.locations import find_shards
from nccleaner.pipeline.originals import read_originals, read_pictures
from nccleaner.pipeline.reporter import SilentReporter


@pytest.fixture
def shards(tmp_path):
    for number in range(3):
        rows = make_rows(5, shard_id=number)
        rows[3] = Row(rows[3].key, "broken", b"\xff\xd8no image")
        write_webdataset_shard(tmp_path / "shards", f"{number:05d}", rows)
    return find_shards(tmp_path / "shards")


def test_samples_come_in_the_order_of_the_shards(shards):
    names = [("00002", "000020000"), ("00000", "000000004"), ("00000", "000000001")]
    found = list(read_originals(shards, names, limits=LIMITS))
    assert [(s.shard, s.key) for s in found] == [names[2], names[1], names[0]]
    assert found[0].image == make_rows(2)[1].image


def test_shards_are_read_no_further_than_needed(tmp_path):
    row = make_rows(1)[0]
    whole = tar_bytes([("a.jpg", row.image), ("a.txt", b"first"), ("b.jpg", jpeg())])
    (tmp_path / "cut.tar").write_bytes(whole)
    (tmp_path / "gone.tar").write_bytes(whole)
    shards = find_shards(tmp_path)
    (tmp_path / "gone.tar").unlink()  # not wanted, so never opened
    (found,) = read_originals(shards, [("cut", "a")], limits=LIMITS)
    assert (found.key, found.caption) == ("a", "first")


def test_the_first_of_several_samples_of_one_key_is_meant(tmp_path):
    members = [("a.jpg", jpeg("red")), ("a.txt", b"1"), ("b.jpg", jpeg()), ("b.txt", b"2")]
    members += [("a.jpg", jpeg("blue")), ("a.txt", b"3")]
    (tmp_path / "s.tar").write_bytes(tar_bytes(members))
    (found,) = read_originals(find_shards(tmp_path), [("s", "a")], limits=LIMITS)
    assert found.image == jpeg("red")


def test_names_that_are_not_there_are_not_found(shards):
    names = [("00000", "nobody"), ("nowhere", "000000001")]
    assert list(read_originals(shards, names, limits=LIMITS)) == []


def test_pictures_are_small_images_with_their_captions(shards):
    names = [("00001", "000010000"), ("00001", "000010003"), ("00000", "nobody")]
    data = DataConfig(workers=0)
    found = read_pictures(shards, names, size_px=16, data=data, reporter=SilentReporter())
    assert set(found) == set(names[:2])
    assert found[names[1]] == ("broken", None)
    caption, uri = found[names[0]]
    assert caption == make_rows(1, shard_id=1)[0].caption
    image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert (image.format, image.size) == ("JPEG", (16, 16))


def test_shards_may_be_far_away(shards, tmp_path):
    with serve(tmp_path / "shards") as server:
        far = find_shards(f"{server}/00001.tar")
        (found,) = read_originals(far, [("00001", "000010002")], limits=LIMITS)
    assert found.image == make_rows(3, shard_id=1)[2].image
