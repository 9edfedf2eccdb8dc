import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nccleaner import files
from nccleaner.errors import InputError, RunError


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def write_half(path: Path) -> None:
    with path.open("w") as file:
        file.writelines(["half", None])  # type: ignore[list-item]


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with files.replace_file(path) as temporary:
        temporary.write_text("whole")
        assert temporary.parent == path.parent
        assert not path.exists()
    assert path.read_text() == "whole"
    assert names(path.parent) == {"a.txt"}


def test_after_an_error_the_earlier_file_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("earlier")
    with pytest.raises(TypeError), files.replace_file(path) as temporary:
        write_half(temporary)
    assert path.read_text() == "earlier"
    assert names(tmp_path) == {"a.txt"}


def test_a_folder_is_replaced_with_all_its_files(tmp_path: Path) -> None:
    path = tmp_path / "index"
    path.mkdir()
    (path / "earlier").touch()
    with files.replace_folder(path) as temporary:
        (temporary / "new").touch()
        assert names(path) == {"earlier"}
    assert names(path) == {"new"}
    assert names(tmp_path) == {"index"}


def test_after_an_error_the_earlier_folder_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "index"
    path.mkdir()
    (path / "earlier").touch()
    with pytest.raises(TypeError), files.replace_folder(path) as temporary:
        write_half(temporary / "new")
    assert names(path) == {"earlier"}
    assert names(tmp_path) == {"index"}


def test_a_folder_that_cannot_arrive_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "index"
    path.mkdir()
    (path / "earlier").touch()
    replace = Path.replace

    def refuse_arrival(self: Path, target: Path) -> Path:
        if target == path and (self / "new").exists():
            raise OSError("no space")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse_arrival)
    with pytest.raises(OSError, match="no space"), files.replace_folder(path) as temporary:
        (temporary / "new").touch()
    assert names(path) == {"earlier"}
    assert names(tmp_path) == {"index"}


def killed_while_replacing(path: Path, *, moved_aside: bool) -> None:
    """Leaves what a process leaves that dies in `replace_folder`."""
    pid = os.fork()
    if pid == 0:
        with files.replace_folder(path) as temporary:
            (temporary / "new").touch()
            if moved_aside:
                path.replace(files._temporary(path, "old"))
            os._exit(0)
    os.waitpid(pid, 0)


@pytest.mark.parametrize("moved_aside", [False, True])
def test_leftovers_of_a_killed_run_are_cleared(tmp_path: Path, moved_aside: bool) -> None:
    path = tmp_path / "in-dex"
    path.mkdir()
    (path / "earlier").touch()
    killed_while_replacing(path, moved_aside=moved_aside)
    assert len(names(tmp_path)) == 2
    (tmp_path / ".nccleaner-notes").touch()

    assert len(files.remove_leftovers(tmp_path)) == 1 + moved_aside
    assert names(tmp_path) == {"in-dex", ".nccleaner-notes"}
    assert names(path) == {"earlier"}
    assert files.remove_leftovers(tmp_path) == []
    assert files.remove_leftovers(tmp_path / "missing") == []


def test_json_and_parquet_are_what_was_written(tmp_path: Path) -> None:
    files.write_json({"ä": [1, None]}, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"ä": [1, None]}
    table = pa.table({"a": [1, 2]})
    files.write_parquet(table, tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "a.parquet").equals(table)


def test_json_has_no_word_for_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json({"a": float("nan")}, tmp_path / "a.json")
    assert names(tmp_path) == set()


def test_a_folder_that_two_write_at_once_is_that_of_one_of_them(tmp_path: Path) -> None:
    path = tmp_path / "part"
    start = threading.Barrier(2)

    def write(name: str) -> None:
        for _ in range(100):
            start.wait(timeout=60)
            with files.replace_folder(path) as temporary:
                (temporary / name).touch()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, ["one", "two"]))  # raises what they raise
    assert names(path) in ({"one"}, {"two"})
    assert names(tmp_path) == {"part"}


def test_a_mark_is_there_for_a_while_and_no_leftover(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with files.mark_folder(folder) as mark:
        assert files.remove_leftovers(folder) == []
        assert mark.exists()
        assert mark.parent == folder
    assert names(folder) == set()


@pytest.mark.parametrize("mask", [0o077, 0o027, 0o002])
def test_modes_are_those_of_new_files_whoever_writes(tmp_path, mask):
    old = os.umask(mask)
    try:
        with files.replace_file(tmp_path / "file") as temporary:
            temporary.write_text("x")
        with files.replace_file(tmp_path / "private") as temporary:
            temporary.write_text("x")
            temporary.chmod(0o600)
        with files.replace_folder(tmp_path / "folder") as folder:
            (folder / "file").write_text("x")
    finally:
        os.umask(old)
    found = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert found == {
        "file": 0o666 & ~mask,
        "private": 0o666 & ~mask,
        "folder": 0o777 & ~mask,
    }


@pytest.mark.parametrize("name", ["link", "a/link", "a/b/link"])
@pytest.mark.parametrize("target", ["/etc", "a", "nowhere", "link"])
def test_links_are_refused_wherever_they_lead(tmp_path, name, target):
    folder = tmp_path / "folder"
    (folder / "a" / "b").mkdir(parents=True)
    files.refuse_links(folder)
    (folder / name).symlink_to(target)
    with pytest.raises(RunError, match=f"{name} is a link"):
        files.refuse_links(folder)


def test_a_folder_without_links_may_be_missing_or_linked(tmp_path):
    files.refuse_links(tmp_path / "missing")
    (tmp_path / "folder" / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    files.refuse_links(tmp_path / "link")


def test_a_folder_is_claimed_once_and_by_whoever_was_killed_before(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / ".nccleaner-tmp-0123abcd-.claim").write_text("hal")
    files.claim_folder(folder, ".claim", "half")
    assert names(folder) == {".claim"}
    files.claim_folder(folder, ".claim", "half")
    with pytest.raises(InputError, match="other arguments"):
        files.claim_folder(folder, ".claim", "whole")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InputError, match="not an empty folder"):
        files.claim_folder(tmp_path / "full", ".claim", "half")
    assert names(tmp_path / "full") == {"file"}
