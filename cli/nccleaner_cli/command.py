"""What all commands share: help that teaches, the common options, the way they end."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import click

from nccleaner.pipeline.engines import EngineName
from nccleaner_cli.console import Display
from nccleaner_cli.errors import exit_codes, which_process

_Function = Callable[..., Any]
_Decorator = Callable[[_Function], _Function]

DEFAULT_RUN = Path("nccleaner-run")


class Command(click.Command):
    """A command whose help ends with examples, and with what comes next.

    Args:
        examples: Lines to type.
        then: What one does after this command.
        **settings: Those of `click.Command`.
    """

    def __init__(self, *, examples: Sequence[str], then: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.examples = examples
        self.then = then

    def format_epilog(
        self,
        ctx: click.Context,  # noqa: ARG002
        formatter: click.HelpFormatter,
    ) -> None:
        """Writes the examples as they are to be typed, then what comes next."""
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write(f"{'':{formatter.current_indent}}{example}\n")
        with formatter.section("Then"):
            formatter.write_text(self.then)


def shows_result(function: _Function) -> _Function:
    """Adds `--quiet`, `--json` and `--debug`, and ends the command with its exit code.

    The function gets a `Display` first and returns its result, which `--json` writes.
    """

    @click.option("--quiet", is_flag=True, help="Show warnings and the result only.")
    @click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Write the result as one line of JSON to standard output, all else to standard error.",
    )
    @click.option("--debug", is_flag=True, help="Show a traceback where something fails.")
    @functools.wraps(function)
    def command(*, quiet: bool, as_json: bool, debug: bool, **arguments: Any) -> None:
        with exit_codes(debug=debug):
            display = _open_display(quiet=quiet, as_json=as_json)
            result = function(display, **arguments)
            if as_json:
                display.json_line(result)

    return command


def _open_display(*, quiet: bool, as_json: bool) -> Display:
    """Opens the display; of several processes that torchrun started only the first one speaks."""
    if which_process() in {None, 0}:
        return Display(quiet=quiet, as_json=as_json)
    return Display(stdout=io.StringIO(), stderr=io.StringIO())


def run_option(default: Path = DEFAULT_RUN) -> _Decorator:
    """`--run`: the directory in which all state lives."""
    return click.option(
        "--run",
        type=click.Path(path_type=Path, file_okay=False),
        default=default,
        show_default=True,
        help="The run directory: what was learned, and its results.",
    )


def output_option() -> _Decorator:
    """`--output`: keeps the scores and results of other shards apart from the run."""
    return click.option(
        "--output",
        type=click.Path(path_type=Path, file_okay=False),
        help="Another folder for scores and results than the run directory.",
    )


def engine_option() -> _Decorator:
    """`--engine`: this machine, or many."""
    return click.option(
        "--engine",
        type=click.Choice(get_args(EngineName)),
        default="local",
        show_default=True,
        help="Who works on the shards: local, this process; ray, the Ray cluster of RAY_ADDRESS, "
        "or of this machine.",
    )


def run_words(run: Path, output: Path | None = None) -> list[str]:
    """The options that a command to type next needs, none where the defaults do."""
    words = [] if run == DEFAULT_RUN else ["--run", str(run)]
    return words if output is None else [*words, "--output", str(output)]
