"""Run directories without a fit, or with a damaged one."""

from __future__ import annotations

import json
import shutil

import pytest

import nccleaner
from nccleaner.errors import RunError
from nccleaner.pipeline.workspace import RunDescription, Workspace, add_inputs, read_inputs
from nccleaner.records import Shard


@pytest.fixture
def run(fitted, tmp_path):
    shutil.copytree(fitted.run, tmp_path / "run")
    return tmp_path / "run"


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


DAMAGES = {
    "no run.json": lambda run: (run / "run.json").unlink(),
    "empty run.json": lambda run: (run / "run.json").write_text(""),
    "half a run.json": lambda run: (run / "run.json").write_text(
        (run / "run.json").read_text()[:500]
    ),
    "a list": lambda run: (run / "run.json").write_text("[]"),
    "another layout": lambda run: edit(run / "run.json", layout=99),
    "unknown settings": lambda run: edit(run / "run.json", config={"colour": "red"}),
    "no shards": lambda run: edit(run / "run.json", shards=[{"name": "00000"}]),
    "no scorer": lambda run: (run / "checkpoints" / "best.safetensors").unlink(),
    "half a scorer": lambda run: (run / "checkpoints" / "best.safetensors").write_bytes(
        (run / "checkpoints" / "best.safetensors").read_bytes()[:10_000]
    ),
    "no pool": lambda run: (run / "checkpoints" / "pool.parquet").unlink(),
    "empty pool": lambda run: (run / "checkpoints" / "pool.parquet").write_bytes(b""),
    "no trusted": lambda run: (run / "checkpoints" / "trusted.parquet").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_fit_says_what_to_do(run, damage):
    damage(run)
    shutil.rmtree(run / "scores")

    with pytest.raises(RunError) as caught:
        nccleaner.purge(run)
    assert "nccleaner fit" in caught.value.next_step
    assert str(run) in caught.value.message


def test_a_list_of_scores_that_is_damaged_says_what_to_do(run):
    (run / "scores.json").write_text("{")

    with pytest.raises(RunError, match="nccleaner score"):
        nccleaner.purge(run)


def test_scores_that_are_damaged_are_made_again(run):
    path = run / "scores" / "00000.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:100])

    nccleaner.purge(run)

    assert path.read_bytes() == content


def test_encoders_that_changed_since_the_fit_are_refused(run):
    encoders = json.loads((run / "run.json").read_text())["encoders"]
    edit(run / "run.json", encoders={**encoders, "text": "other:0000"})

    with pytest.raises(RunError, match="encoders are not those"):
        nccleaner.search(run, "a bird")


def test_a_description_comes_back_as_it_was_written(fitted, tmp_path):
    described = RunDescription.read(fitted.run / "run.json")
    described.write(tmp_path / "run.json")

    assert RunDescription.read(tmp_path / "run.json") == described


def test_shards_that_are_scored_are_added_by_name(tmp_path):
    workspace = Workspace(tmp_path)
    one, two = (Shard(name, f"/{name}.tar", "webdataset") for name in ("a", "b"))
    assert read_inputs(workspace) == ()

    add_inputs(workspace, [two])
    add_inputs(workspace, [one, Shard("b", "/b.tar", "webdataset", size_bytes=7)])

    assert [shard.name for shard in read_inputs(workspace)] == ["a", "b"]
    assert read_inputs(workspace)[1].size_bytes == 7
