"""What the user sees: progress on standard error, results on standard output, drawn by rich.

On a terminal long work is a bar; anywhere else it is plain lines, some seconds apart. All text
passes through `text.one_line` here, so that no command can forget it: captions, keys and paths
come from strangers, who must not steer the terminal.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TextIO

import rich.table
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from nccleaner_cli.text import duration, escape_controls, one_line

# A caption may be a page; a cell never needs more than a very wide terminal shows.
_CELL_CHARS = 300
_PLAIN_INTERVAL_S = 15.0
_INDENT = 2
_SHORTEST_BAR, _LONGEST_BAR = 4, 30


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        title: Its heading; may be empty.
        right: Set flush right, as figures are.
        share: Largest share of the terminal's width that it takes; longer cells are cut.
        elastic: Takes what the others leave.
    """

    title: str
    right: bool = False
    share: float = 1.0
    elastic: bool = False


class Display:
    """Shows one command at work, and what came of it; a `Reporter` of the pipeline.

    Args:
        quiet: No progress and no notes; warnings and results only.
        as_json: Standard output is for `json_line` alone; results go to standard error.
        stdout: Where results go; None: standard output.
        stderr: Where progress goes; None: standard error.
        width: Columns; None: the terminal's, and 80 where there is none.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        as_json: bool = False,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        width: int | None = None,
    ) -> None:
        self._quiet = quiet
        self._out = _console(stdout or sys.stdout, width)
        self._err = _console(stderr or sys.stderr, width)
        self._results = self._err if as_json else self._out

    def stage(
        self, title: str, total: int | None, unit: str
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Opens a stage of `total` units (None: not known); what it yields takes progress."""
        title, unit = one_line(title), one_line(unit)
        if self._quiet:
            return nullcontext(lambda _count: None)
        if self._err.is_terminal:
            return self._bar(title, total, unit)
        return self._lines(title, total, unit)

    def note(self, text: str) -> None:
        """Shows a fact worth a line."""
        if not self._quiet:
            self._print(self._err, Text(escape_controls(text), "dim"))

    def warn(self, text: str) -> None:
        """Shows something the user should look at, `--quiet` or not."""
        self._print(self._err, Text.assemble(("Warning: ", "bold yellow"), one_line(text)))

    def heading(self, text: str) -> None:
        """Starts a part of the result."""
        self._print(self._results, Text(f"\n{one_line(text)}", "bold"))

    def paragraph(self, text: str) -> None:
        """Shows running text, wrapped to the width."""
        self._results.print(Text(one_line(text)))

    def lines(self, texts: Sequence[str]) -> None:
        """Shows indented lines of text, one under the other."""
        for text in texts:
            if self._results.is_terminal:
                self._results.print(Padding(Text(one_line(text)), (0, 0, 0, _INDENT)))
            else:
                self._print(self._results, Text(" " * _INDENT + one_line(text)))

    def command(self, text: str) -> None:
        """Shows a command to type; never wrapped, so that it can be copied."""
        line = Text(" " * 2 * _INDENT + one_line(text), "cyan")
        self._results.print(line, soft_wrap=True)

    def facts(self, facts: Mapping[str, str]) -> None:
        """Shows names with their values, the values under each other."""
        grid = rich.table.Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        grid.add_column()
        for name, value in facts.items():
            grid.add_row(Text(one_line(name)), Text(one_line(value)))
        self._results.print(Padding(grid, (0, 0, 0, _INDENT), expand=False))

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
        """Shows rows under headings, one line each; what does not fit is cut."""
        elastic = any(column.elastic for column in columns)
        table = rich.table.Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=elastic)
        for column in columns:
            table.add_column(
                Text(column.title, "bold"),
                justify="right" if column.right else "left",
                no_wrap=True,
                overflow="ellipsis",
                max_width=int(column.share * self._results.width),
                ratio=1 if column.elastic else None,
            )
        for row in rows:
            table.add_row(*(Text(one_line(cell, max_chars=_CELL_CHARS)) for cell in row))
        self._results.print(Padding(table, (0, 0, 0, _INDENT), expand=elastic))

    def blank(self) -> None:
        """Leaves a line free."""
        self._results.print()

    def json_line(self, result: object) -> None:
        """Writes a result as one line of JSON, ASCII only, to standard output."""
        self._out.out(json.dumps(_plain(result), allow_nan=False), highlight=False)

    def _print(self, console: Console, text: Text) -> None:
        # In a file a line is a line, however long: that is what grep and diff expect.
        console.print(text, soft_wrap=not console.is_terminal)

    @contextmanager
    def _bar(self, title: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
        figures = len(_counted(total or 0, total, unit)) + len(", 59 min 59 s left")
        left = self._err.width - cell_len(title) - figures - 2
        columns = (
            TextColumn("{task.description}", markup=False, table_column=_whole_line()),
            BarColumn(min(max(left, _SHORTEST_BAR), _LONGEST_BAR)),
            _Counts(table_column=_whole_line()),
        )
        with Progress(*columns, console=self._err) as progress:
            task = progress.add_task(title, total=total, unit=unit, known_total=total)
            yield lambda count: progress.advance(task, count)
            if total is None:
                progress.update(task, total=progress.tasks[0].completed)

    @contextmanager
    def _lines(self, title: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
        done, shown = 0, -1
        start = last = time.monotonic()

        def show() -> None:
            nonlocal shown
            shown = done
            passed = duration(time.monotonic() - start)
            self._print(self._err, Text(f"{title}: {_counted(done, total, unit)}, {passed}"))

        def advance(count: int) -> None:
            nonlocal done, last
            done += count
            if time.monotonic() - last >= _PLAIN_INTERVAL_S:
                last = time.monotonic()
                show()

        yield advance
        if shown != done:
            show()


class _Counts(ProgressColumn):
    """How many of how many, and how much longer; when finished, how long it took."""

    def render(self, task: Task) -> Text:
        counted = _counted(int(task.completed), task.fields["known_total"], task.fields["unit"])
        if task.finished:
            return Text(f"{counted}, {duration(task.finished_time or 0)}")
        left = task.time_remaining
        return Text(counted if left is None else f"{counted}, {duration(left)} left")


def _console(stream: TextIO, width: int | None) -> Console:
    # Only a real terminal gets colours and bars, whatever the environment asks for: the rest is
    # read by programs.
    terminal = stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    return Console(
        file=stream,
        width=width,
        force_terminal=terminal,
        markup=False,
        emoji=False,
        highlight=False,
    )


def _whole_line() -> rich.table.Column:
    return rich.table.Column(no_wrap=True, overflow="ellipsis")


def _counted(done: int, total: int | None, unit: str) -> str:
    return f"{done:,} {unit}" if total is None else f"{done:,} of {total:,} {unit}"


def _plain(value: object) -> object:
    """What JSON has words for; a number that is not finite becomes null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: _plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, str | Path):
        return str(value)
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
