import json

import pytest
from builders import make_rows, write_webdataset_shard
from click.testing import CliRunner

from nccleaner_cli.main import cli


@pytest.fixture
def shards(tmp_path):
    write_webdataset_shard(tmp_path / "in", "00000", make_rows(18))
    return tmp_path / "in"


def corrupt(shards, *options):
    out = shards.parent / "out"
    return CliRunner().invoke(cli, ["corrupt", str(shards), str(out), "--ratio", "1", *options])


def test_it_says_how_alike_the_captions_are_that_were_swapped(shards):
    done = corrupt(shards, "--kind", "similar", "--json")
    assert done.exit_code == 0
    report = json.loads(done.stdout.splitlines()[-1])
    assert 0 < report["near"] <= 1
    assert report["pairs"] == report["mismatched"] == 18
    assert "one of the ten most like" in done.stderr


def test_other_kinds_do_not_speak_of_likeness(shards):
    done = corrupt(shards, "--kind", "same-category", "--category-column", "status")
    assert done.exit_code == 0
    assert "like" not in done.stdout


def test_a_kind_without_its_column_is_wrong_usage(shards):
    done = corrupt(shards, "--kind", "same-category")
    assert done.exit_code == 2
    assert "--category-column" in done.stderr
