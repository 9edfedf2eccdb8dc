import io
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from nccleaner_cli import console
from nccleaner_cli.console import Column, Display
from nccleaner_cli.text import (
    bullet_lines,
    command_line,
    duration,
    escape_controls,
    one_line,
    percent,
    quantity,
)

HOSTILE = "a\x1b[2J\x1b]0;title\x07 \x9b31m [red]markup[/red] :smile: \u202egnirts\nline\r\ttab"
HARMLESS = r"a\x1b[2J\x1b]0;title\x07 \x9b31m [red]markup[/red] :smile: \u202egnirts line tab"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(use, *, terminal: bool = False, **options) -> tuple[str, str]:
    make = Terminal if terminal else io.StringIO
    out, err = make(), make()
    use(Display(stdout=out, stderr=err, width=80, **options))
    return out.getvalue(), err.getvalue()


def everything(display: Display, text: str) -> None:
    with display.stage(text, 2, text) as advance:
        advance(2)
    display.note(text)
    display.warn(text)
    display.heading(text)
    display.paragraph(text)
    display.lines([text])
    display.command(text)
    display.facts({text: text})
    display.table((Column("a"), Column("b", elastic=True)), [("x", text)])


@pytest.mark.parametrize("terminal", [False, True])
def test_what_strangers_wrote_never_steers_the_terminal(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    harmless = "".join(shown(lambda display: everything(display, "text"), terminal=terminal))
    out, err = shown(lambda display: everything(display, HOSTILE), terminal=terminal)
    for written in ("\x1b[2J", "\x1b]", "\x07", "\x9b", "\u202e"):
        assert written not in out
        assert (written in err) <= (written in harmless)
    assert ("\x1b" in out) == terminal  # our own colours
    assert "[red]markup[/red] :smile:" in out


def test_one_line_writes_out_what_would_be_obeyed():
    assert one_line(HOSTILE) == HARMLESS
    assert one_line("  two\n\n lines\u2028three ") == "two lines three"
    foreign = "日本語 нет \u0645\u06cc\u200c\u062e\u0648\u0627 नमस्ते 👩\u200d🚀"
    assert one_line(foreign) == foreign
    assert one_line("x" * 1_000_000, max_chars=5) == "xxxx…"
    assert escape_controls("\ud800") == r"\ud800"


def test_every_code_point_becomes_printable():
    line = one_line("".join(map(chr, range(sys.maxunicode + 1))))
    assert all(char.isprintable() or char in "\u200c\u200d" for char in line)
    line.encode()


def test_words_for_figures():
    assert quantity(1, "shard") == "1 shard"
    assert quantity(1050, "pair") == "1,050 pairs"
    assert percent(0.2871) == "28.7%"
    assert [duration(s) for s in (0.42, 41.3, 200, 7500)] == [
        "0.4 s",
        "41 s",
        "3 min 20 s",
        "2 h 5 min",
    ]
    assert command_line("nccleaner", "search", "a red car") == "nccleaner search 'a red car'"
    assert bullet_lines(["a", "b", "c"], limit=2, rest="run.json") == [
        "a",
        "b",
        "... and 1 more, see run.json",
    ]


def test_progress_in_a_file_is_plain_lines(monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))

    def use(display):
        with display.stage("Reading", 1200, "samples") as advance:
            for _ in range(4):
                advance(300)

    out, err = shown(use)
    assert out == ""
    lines = err.splitlines()
    assert lines[-1].startswith("Reading: 1,200 of 1,200 samples, ")
    assert 1 < len(lines) <= 4
    assert all(line.startswith("Reading: ") for line in lines)
    counts = [line.split(" of ")[0] for line in lines]
    assert len(set(counts)) == len(counts)


def test_progress_on_a_terminal_fits_it(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")

    def use(display):
        with display.stage("Extracting features", 1_000_000, "samples") as advance:
            advance(1_000_000)
        with display.stage("Reading", None, "pairs") as advance:
            advance(7)

    _, err = shown(use, terminal=True)
    assert "1,000,000 of 1,000,000 samples" in err
    assert "7 pairs" in err


def test_quiet_leaves_warnings_and_results():
    out, err = shown(lambda display: everything(display, "text"), quiet=True)
    assert err == "Warning: text\n"
    assert out.startswith("\ntext\ntext\n")


def test_a_line_in_a_file_is_not_wrapped():
    long = " ".join(["word"] * 40)
    out, err = shown(lambda display: (display.lines([long]), display.note(long)))
    assert out == f"  {long}\n"
    assert err == f"{long}\n"


def test_only_the_elastic_column_is_cut():
    columns = (Column("Pair", share=0.35), Column("Caption", elastic=True))
    out, _ = shown(lambda display: display.table(columns, [("00000/1", "long " * 40)]))
    assert [line.rstrip() for line in out.splitlines()] == [
        "  Pair     Caption",
        "  00000/1  long long long long long long long long long long long long long lon…",
    ]


@dataclass(frozen=True)
class Part:
    path: Path
    counts: dict[str, int]
    rate: float


def test_json_line_is_all_that_standard_output_gets():
    def use(display):
        display.paragraph("for people")
        display.json_line({"part": Part(Path("a/b"), {"\x1b": 2}, float("nan")), "captions": ["ä"]})

    out, err = shown(use, as_json=True)
    assert err == "for people\n"
    assert out.isascii()
    assert out.count("\n") == 1
    assert "\x1b" not in out
    assert json.loads(out) == {
        "part": {"path": "a/b", "counts": {"\x1b": 2}, "rate": None},
        "captions": ["ä"],
    }


def test_a_reader_that_leaves_early_is_no_error():
    code = (
        "from nccleaner_cli.console import Display\n"
        "for _ in range(100_000): Display().paragraph('line')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 1
