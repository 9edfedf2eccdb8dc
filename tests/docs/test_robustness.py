"""The table of faults against the tests: each one that it names is there."""

from __future__ import annotations

import ast
import re

from pages import ROOT

PAGE = (ROOT / "docs" / "robustness.md").read_text("utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and "| test |" not in line]
_TEST = re.compile(r"`(tests/[\w/.]+?\.py)(?:::(\w+))?`")


def test_every_row_names_a_test() -> None:
    assert len(ROWS) > 30
    for row in ROWS:
        what, does, test = (cell.strip() for cell in row.strip("|").split(" | "))
        assert what, row
        assert does, row
        assert _TEST.search(test), row


def test_every_test_that_is_named_exists() -> None:
    for module, function in _TEST.findall(PAGE):
        path = ROOT / module
        assert path.is_file(), module
        tree = ast.parse(path.read_text("utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert not function or function in functions, f"{module}::{function}"
