"""A disk that is full, and one that cannot be written."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from killing import run_command
from smallfit import TINY, read_clipart

import nccleaner


def mount(folder: Path, options: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small disk cannot be made here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A disk of 96 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount(folder, "size=96m")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def fit_words(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("input")
    clipart = read_clipart()
    shards = clipart.write_shards(folder / "shards")
    trusted = clipart.write_trusted(folder / "trusted.csv")
    settings = [f"{part}.{key}={x}" for part, values in TINY.items() for key, x in values.items()]
    words = ["fit", str(shards), "--meta", str(trusted)]
    return [*words, *(word for setting in settings for word in ("--set", setting))]


def fill(disk: Path, left: int) -> Path:
    """Fills a disk up but for some bytes."""
    ballast = disk / "ballast"
    free = shutil.disk_usage(disk).free
    with ballast.open("wb") as file:
        file.write(bytes(max(free - left, 0)))
    return ballast


@pytest.mark.parametrize(
    ("command", "left"),
    [("fit", 100_000), ("fit", 700_000), ("purge", 20_000), ("purge", 200_000), ("export", 80_000)],
)
def test_a_full_disk_is_a_clear_error_and_nothing_half_written(disk, fit_words, command, left):
    words = {"fit": fit_words, "purge": ["purge"], "export": ["export", "exported"]}
    if command != "fit":
        assert run_command(fit_words, disk).exit_code == 0
    if command == "export":
        assert run_command(["purge"], disk).exit_code == 0
    ballast = fill(disk, left)
    ended = run_command(words[command], disk)
    assert ended.exit_code == 1
    assert "No space left on device" in ended.output
    assert "Next: Make room on the disk" in ended.output
    assert "Traceback" not in ended.output
    assert not list(disk.rglob(".nccleaner-tmp-*"))

    ballast.unlink()
    ended = run_command(words[command], disk)
    assert ended.exit_code == 0, ended.output
    if command == "fit":
        assert run_command(["purge"], disk).exit_code == 0
    keep = nccleaner.KeepSet(disk / "nccleaner-run")
    summary = (disk / "nccleaner-run" / "clean" / "summary.json").read_text()
    assert f'"kept": {len(keep)},' in summary


def test_an_output_that_cannot_be_written_is_a_clear_error(disk, fit_words):
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    ended = run_command(fit_words, disk)
    assert ended.exit_code == 1
    assert "Read-only file system" in ended.output
    assert "Traceback" not in ended.output
