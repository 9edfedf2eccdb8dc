"""The pages of the documentation, and the commands they show."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path

from click.testing import CliRunner, Result
from smallfit import TINY

from nccleaner_cli.main import cli

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
TUTORIAL = ROOT / "docs" / "tutorial.md"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])

_COMMAND = re.compile(r"^ {4}(nccleaner .+)$|`(nccleaner [^`]+)`", re.MULTILINE)
_BLOCK = re.compile(r"(?:^ {4}.*\n|^\n(?= {4}))+", re.MULTILINE)


def command_lines(page: Path) -> list[str]:
    found = (block or inline for block, inline in _COMMAND.findall(page.read_text("utf-8")))
    return [line.partition("  #")[0] for line in found]


def snippets(page: Path) -> list[str]:
    """Returns the blocks of Python of a page: those that begin with an import."""
    blocks = _BLOCK.findall(page.read_text("utf-8"))
    return [textwrap.dedent(block) for block in blocks if re.match(r"\s*(import|from) ", block)]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def type_line(line: str) -> Result:
    """Runs a command as it stands; a fit gets settings with which it takes seconds."""
    _, name, *arguments = shlex.split(line)
    if name == "fit" and "--settings" not in arguments:
        for section, values in TINY.items():
            for setting, value in values.items():
                arguments += ["--set", f"{section}.{setting}={value}"]
    return CliRunner().invoke(cli, [name, *arguments])
