import gzip
import json
import tarfile
from pathlib import Path

import pytest
from builders import jpeg

from nccleaner.data.writing import (
    DOWNLOAD_SCHEMA,
    download_fields,
    sample_members,
    shard_stats,
    write_tar,
)

MEMBERS = [("é.jpg", b"\xff\xd8"), ("é.txt", "日本".encode()), ("é.json", b"{}")]


def test_a_tar_holds_the_members_and_nothing_of_the_machine(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", MEMBERS)
    write_tar(tmp_path / "b.tar", iter(MEMBERS))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar", encoding="utf-8") as tar:
        headers = tar.getmembers()
        assert [(h.name, tar.extractfile(h).read()) for h in headers] == MEMBERS  # type: ignore[union-attr]
    assert {(h.mtime, h.uid, h.gid, h.uname, h.gname, h.mode) for h in headers} == {
        (0, 0, 0, "", "", 0o644)
    }


def test_a_zipped_tar_is_the_same_tar(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", MEMBERS)
    for name in ("a.tgz", "b.tar.gz"):
        write_tar(tmp_path / name, MEMBERS)
        zipped = (tmp_path / name).read_bytes()
        assert gzip.decompress(zipped) == (tmp_path / "a.tar").read_bytes()
    assert (tmp_path / "a.tgz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()


def test_a_sample_is_its_image_text_and_fields() -> None:
    fields = {"caption": "é", "score": 0.5, "gone": None}
    members = dict(sample_members("7", image=b"x", suffix="png", caption="é", fields=fields))
    assert list(members) == ["7.png", "7.txt", "7.json"]
    assert members["7.png"] == b"x"
    assert members["7.txt"].decode() == "é"
    assert json.loads(members["7.json"]) == fields
    with pytest.raises(ValueError, match="JSON"):
        list(sample_members("7", image=b"", suffix="jpg", caption="", fields={"a": float("nan")}))


def test_notes_about_a_download_fill_img2datasets_columns() -> None:
    image = jpeg()
    fields = download_fields("7", url="u", image=image, caption="c", size_px=(32, 16))
    assert list(fields) == DOWNLOAD_SCHEMA.names
    assert (fields["width"], fields["height"]) == (32, 16)
    stats = shard_stats(3)
    assert stats["count"] == stats["successes"] == 3
    assert stats["status_dict"] == {"success": 3}
