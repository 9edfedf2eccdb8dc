"""The page about exports, typed word by word: its commands, then each of its snippets."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from open_clip_train.data import get_dataset_size
from open_clip_train.params import parse_args
from pages import ROOT, snippets
from wdsreading import files_left_open

from nccleaner_cli.main import cli

EXPORT = ROOT / "docs" / "export.md"
PAGE = EXPORT.read_text("utf-8")
SNIPPETS = snippets(EXPORT)
TRAINING = re.findall(r"^ {4}python -m open_clip_train\.main (.*)$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def folder(fitted, tmp_path_factory) -> Path:
    """Where the page is read: the run and the shards by their names there, and what was made."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "nccleaner-run").symlink_to(fitted.run)
    (folder / "shards").symlink_to(fitted.shards)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in re.findall(r"^ {4}(nccleaner export .*)$", PAGE, re.MULTILINE):
            done = CliRunner().invoke(cli, shlex.split(line)[1:], catch_exceptions=False)
            assert done.exit_code == 0, line
    return folder


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda text: text.strip().splitlines()[-1][:40])
def test_a_snippet_runs(folder, tmp_path, monkeypatch, snippet):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    names: dict = {}
    with files_left_open():
        exec(snippet, names)
        for name in ("pairs", "kept", "table", "vectors"):
            assert len(list(names.get(name, [0]))) > 0


def test_snippets_and_commands_are_found():
    assert len(SNIPPETS) == 8
    assert len(TRAINING) == 2


@pytest.mark.parametrize("line", TRAINING)
def test_open_clip_understands_the_line(folder, fitted, monkeypatch, line):
    monkeypatch.chdir(folder)
    args = parse_args(shlex.split(line))
    if args.train_data.endswith(".tar"):
        tars = re.sub(r"\{.*\}", "00000", args.train_data)  # so few pairs fill one
        with files_left_open():
            assert get_dataset_size(tars) == (fitted.purged.summary.kept, 1)
