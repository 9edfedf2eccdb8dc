"""Two processes and one run directory."""

import errno
import os
import re
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from nccleaner.errors import RunError
from nccleaner.pipeline.occupied import LOCK, occupied

HOLD = """
import sys, time
from pathlib import Path
from nccleaner.pipeline.occupied import occupied
with occupied(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that works in the folder."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "in\n"
        yield process
        process.kill()


def test_the_second_process_is_refused_with_the_identity_of_the_first(holder, tmp_path):
    said = f"in use by process {holder.pid} on .*-c {tmp_path}"
    with pytest.raises(RunError, match=said), occupied(tmp_path):
        pass
    assert holder.poll() is None
    assert (tmp_path / LOCK).exists()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_was_killed_keeps_nobody_out(holder, tmp_path, end):
    holder.send_signal(end)
    holder.wait()
    with occupied(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, code, monkeypatch):
    def refuse(path, *_, **__):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(Path, "open", refuse)
    said = re.escape(f"{tmp_path} cannot be written to: {os.strerror(code)}")
    with pytest.raises(RunError, match=said), occupied(tmp_path):
        pass


def test_a_stopped_process_still_holds_its_folder(holder, tmp_path):
    holder.send_signal(signal.SIGSTOP)
    with pytest.raises(RunError, match="in use"), occupied(tmp_path):
        pass


def test_leftovers_below_are_cleared_before_the_work(tmp_path):
    for folder in (tmp_path, tmp_path / "clean"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".nccleaner-tmp-0123abcd-00000.parquet").write_text("half")
        (folder / "whole").write_text("whole")
    with occupied(tmp_path):
        found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {LOCK, "whole", "clean/whole"}


def test_it_is_free_again_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), occupied(tmp_path):
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []
    with occupied(tmp_path), pytest.raises(RunError, match="in use"), occupied(tmp_path):
        pass


def test_no_two_of_a_crowd_are_in_at_once(tmp_path):
    code = HOLD.replace('"in"', "time.monotonic()").replace("(60)", "(1); print(time.monotonic())")
    command = [sys.executable, "-c", code, str(tmp_path)]
    crowd = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(6)
    ]
    stays = [tuple(map(float, process.communicate()[0].split())) for process in crowd]
    inside = sorted(stay for stay in stays if stay)
    assert inside
    assert all(end <= start for (_, end), (start, _) in pairwise(inside))
