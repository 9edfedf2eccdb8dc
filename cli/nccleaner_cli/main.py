"""`nccleaner`: the group of commands. Each is imported when it is asked for, to keep help fast."""

from __future__ import annotations

import io
import os
import sys
from importlib import import_module

import click

from nccleaner_cli.errors import end_in_order, interruptible

_COMMANDS = {
    "download": "Fetch the images of a list of URLs and captions, as shards.",
    "fit": "Learn from trusted pairs which of the others are mismatched.",
    "score": "Score every pair, of these or of other shards.",
    "purge": "Drop the mismatched; write manifests and indexes of the rest.",
    "report": "Write one HTML page about the purge: figures, and pairs to look at.",
    "index": "Build the indexes again, of another kind.",
    "search": "Find the kept pairs nearest to a text or an image.",
    "export": "Write the kept pairs as tars, a table, embeddings or a list of uids.",
    "evaluate": "Measure retrieval on clean pairs, detection against a truth.",
    "corrupt": "Write shards with known mismatches, to test a cleaner.",
    "demo": "Do the whole job on the embedded example, and explain it.",
}

_HELP = """Cleans web-scraped image-caption pairs: learns from a few hundred pairs that you trust
which of the others are mismatched, and writes a cleaned data set.

\b
Quick start:
  nccleaner fit shards/ --meta trusted.csv
  nccleaner purge

New here? `nccleaner demo` does the whole job on an embedded example and explains each step.
`nccleaner COMMAND --help` shows examples, and what comes next."""


class _Commands(click.Group):
    """Knows the commands' names and summaries without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002
        cmd_name: str,
    ) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = getattr(import_module(f"nccleaner_cli.commands.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> object:
        # A command is imported first, which takes its time too.
        with interruptible():
            return super().invoke(ctx)

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002
        formatter: click.HelpFormatter,
    ) -> None:
        with formatter.section("Commands, in the order of use"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(
    "nccleaner",
    cls=_Commands,
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="nccleaner")
def cli() -> None:
    """The group itself does nothing."""


def main() -> None:
    """Runs the command line; the entry point."""
    # A caption in any script must not fail where the locale lacks its letters.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Threads of OpenMP that spin while they wait take the core from the ones they wait for: beside
    # one other busy process a training step took 2 to 6 times as long. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Python looks for modules in the current folder too where a process is started by `-m` or `-c`,
    # as those are that decode images. A data set's folder may hold a signal.py.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    end_in_order()
    cli(prog_name="nccleaner")


if __name__ == "__main__":
    main()
