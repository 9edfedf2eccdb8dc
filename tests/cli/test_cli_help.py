import shlex
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from nccleaner_cli.command import Command
from nccleaner_cli.main import cli

COMMANDS = (
    "download",
    "fit",
    "score",
    "purge",
    "report",
    "index",
    "search",
    "export",
    "evaluate",
    "corrupt",
    "demo",
)
HEAVY = ("torch", "faiss", "pandas", "pyarrow", "numpy", "pydantic", "rich")


def command_named(name: str) -> Command:
    command = cli.get_command(click.Context(cli), name)
    assert isinstance(command, Command)
    return command


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sorted(sys.modules), file=sys.stderr)"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return set(done.stderr.split())


def test_importing_the_library_loads_nothing_heavy():
    assert not modules_after("import nccleaner") & set(HEAVY)


def test_help_loads_nothing_heavy():
    code = (
        "from nccleaner_cli.main import cli\n"
        "try:\n    cli(['--help'])\n"
        "except SystemExit as exit:\n    assert not exit.code"
    )
    assert not modules_after(code) & set(HEAVY)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_loads_no_model(name):
    code = (
        "from nccleaner_cli.main import cli\n"
        f"try:\n    cli(['{name}', '--help'])\n"
        "except SystemExit as exit:\n    assert not exit.code"
    )
    assert not modules_after(code) & {"torch", "faiss", "pandas", "pyarrow"}


def test_help_lists_the_commands_in_the_order_of_use():
    output = CliRunner().invoke(cli, ["--help"], prog_name="nccleaner").output
    listed = output.split("in the order of use:")[1]
    assert [line.split()[0] for line in listed.strip().splitlines()] == list(COMMANDS)
    assert "    nccleaner fit shards/ --meta trusted.csv\n    nccleaner purge\n" in output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_teaches(name):
    result = CliRunner().invoke(cli, [name, "--help"], prog_name="nccleaner")
    assert result.exit_code == 0
    assert f"Examples:\n  nccleaner {name}" in result.output
    assert "\nThen:\n" in result.output
    for option in ("--quiet", "--json", "--debug"):
        assert option in result.output
    assert max(map(len, result.output.splitlines())) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_can_be_typed(name):
    for example in command_named(name).examples:
        program, named, *arguments = shlex.split(example)
        assert program == "nccleaner"
        command_named(named).make_context(named, arguments)


def test_wrong_usage_exits_with_2():
    for arguments in (["fitt"], ["fit", "shards/"], ["purge", "--by", "beauty"], ["search"]):
        assert CliRunner().invoke(cli, arguments).exit_code == 2
