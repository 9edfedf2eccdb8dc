import json
import subprocess
import sys
from dataclasses import dataclass

import click
import pytest
from click.testing import CliRunner

from nccleaner.errors import InputError, NccleanerError, RunError, UsageError
from nccleaner_cli.command import Command, shows_result
from nccleaner_cli.main import cli


@dataclass(frozen=True)
class Result:
    kept: int


def command_that_raises(error: BaseException | None) -> click.Command:
    @click.command("act", cls=Command, examples=["nccleaner act"], then="Nothing.")
    @shows_result
    def act(display):
        display.note("working")
        if error:
            raise error
        display.paragraph("done")
        return Result(3)

    return act


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (
            InputError("x: not there.", "Name another."),
            1,
            "Error: x: not there.\nNext: Name another.\n",
        ),
        (RunError("No run.", ""), 1, "Error: No run.\n"),
        (UsageError("A and B.", "Give one."), 2, "Error: A and B.\nNext: Give one.\n"),
        (
            ZeroDivisionError("division by zero"),
            1,
            "Error: ZeroDivisionError: division by zero\n"
            "Next: Run again with --debug to see where; finished work is not done twice.\n",
        ),
        (
            # As FAISS tells of it.
            RuntimeError("Error in write: 'ret == (size)' failed: File too large"),
            1,
            "Error: RuntimeError: Error in write: 'ret == (size)' failed: File too large\n"
            "Next: Allow larger files (ulimit -f), then run again: finished work is not done "
            "twice.\n",
        ),
        (
            KeyboardInterrupt(),
            130,
            "Interrupted: Run the same command again: finished work is not done twice.\n",
        ),
        (
            InputError("shard \x1b[2J\nis bad.", ""),
            1,
            "Error: shard \\x1b[2J is bad.\n",
        ),
    ],
)
def test_errors_are_lines_and_exit_codes(error, code, told):
    result = CliRunner().invoke(command_that_raises(error), [])
    assert result.exit_code == code
    assert result.stderr == f"working\n{told}"
    assert result.stdout == ""


_TERMINATED = """
import os, signal, time
from nccleaner.data.decoding import DecodePool
from nccleaner.records import ImageSpec, Limits
from nccleaner_cli.errors import end_in_order, exit_codes

limits = Limits(max_image_pixels=9, max_caption_chars=9, decode_timeout_s=9, max_member_bytes=9)
end_in_order()
with exit_codes(debug=False), DecodePool(workers=2) as pool:
    list(pool.decode([("a", b"no image")], spec=ImageSpec(size_px=32), limits=limits))
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
"""


def test_sigterm_ends_decoders_too_and_in_one_line():
    ended = subprocess.run(
        [sys.executable, "-c", _TERMINATED], capture_output=True, text=True, timeout=50, check=False
    )
    assert ended.returncode == 143
    assert ended.stderr == (
        "Interrupted: Run the same command again: finished work is not done twice.\n"
    )


def test_ctrl_c_while_a_command_is_imported(monkeypatch):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("nccleaner_cli.main.import_module", interrupted)
    result = CliRunner().invoke(cli, ["fit", "--help"])
    assert result.exit_code == 130
    assert result.stderr.startswith("Interrupted: ")


@pytest.mark.parametrize("error", [NccleanerError("Failed.", "Do it."), ValueError("bad \x1b[2J")])
def test_debug_shows_the_traceback(error):
    result = CliRunner().invoke(command_that_raises(error), ["--debug"])
    assert result.exit_code == 1
    assert "Traceback (most recent call last):" in result.stderr
    assert "\x1b" not in result.stderr
    assert "--debug" not in result.stderr


def test_json_is_the_last_line():
    result = CliRunner().invoke(command_that_raises(None), ["--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"kept": 3}
    assert result.stderr == "working\ndone\n"


def test_quiet():
    result = CliRunner().invoke(command_that_raises(None), ["--quiet"])
    assert (result.stdout, result.stderr) == ("done\n", "")


def test_by_needs_a_cut_off():
    result = CliRunner().invoke(cli, ["purge", "--by", "similarity"])
    assert result.exit_code == 2
    assert "A score to cut was named, and no cut-off." in result.stderr


def test_evaluate_needs_something_to_compare_with():
    result = CliRunner().invoke(cli, ["evaluate"])
    assert result.exit_code == 2
    assert "clean SHARDS" in result.stderr
