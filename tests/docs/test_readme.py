"""The documentation against the code: what it says can be typed, opened and imported."""

import re
import shlex
from pathlib import Path

import click
import pytest
from pages import PAGES, README, ROOT, command_lines, name_of

import nccleaner
from nccleaner.records import REJECT_REASONS
from nccleaner_cli.main import cli

_LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")


def headings(page: Path) -> set[str]:
    """The anchors that GitHub gives to headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_command_lines_can_be_typed(page):
    for line in command_lines(page):
        _, name, *arguments = shlex.split(line)
        command = cli.get_command(click.Context(cli), name)
        assert command is not None, line
        try:
            command.make_context(name, arguments)
        except click.exceptions.Exit:
            pass  # an option that shows something and ends
        except click.UsageError as error:
            pytest.fail(f"{line}: {error.format_message()}")


def test_command_lines_are_found():
    names = {shlex.split(line)[1] for line in command_lines(README)}
    assert names == set(cli.list_commands(click.Context(cli)))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_resolve(page):
    for target, anchor in _LINK.findall(page.read_text("utf-8")):
        if "://" in target:
            continue
        linked = page.parent / target
        assert linked.exists(), target
        assert not anchor or anchor.removeprefix("#") in headings(linked), target + anchor


def test_readme_uses_public_names():
    used = set(re.findall(r"\bnccleaner\.(\w+)\(", README.read_text("utf-8")))
    assert used
    assert used <= set(nccleaner.__all__)


def test_readme_has_a_line_for_every_module():
    layout = README.read_text("utf-8").split("\n## Layout\n")[1].split("\n## ")[0]
    listed, package = set(), ""
    for line in re.findall(r"^ {4}( *\S+) +\S", layout, re.MULTILINE):
        if line.endswith("/"):
            package = line.strip()
        else:
            listed.add(package + line.strip() if line.startswith(" ") else line)
    source = ROOT / "nccleaner"
    modules = {path.relative_to(source).as_posix() for path in source.rglob("*.py")}
    assert listed == {module for module in modules if not module.endswith("__init__.py")}


def test_every_reject_reason_is_explained():
    page = (ROOT / "docs" / "output.md").read_text("utf-8")
    table = page.split("| `reason` |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(REJECT_REASONS)
