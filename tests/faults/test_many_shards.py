"""Memory and open files while commands go through many shards; 10,000 by the benchmark."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from many_shards import Look, ManyShards, at

SHARDS = 200
# Of one process. Had every shard that is done one file open, none of the commands would end.
FILES = 160
# What a shard that is done may leave in memory: its report, its place in lists.
BYTES, BLOCKS = 80_000, 200


@pytest.fixture(scope="module")
def looks(tmp_path_factory) -> dict[str, list[Look]]:
    many = ManyShards(tmp_path_factory.mktemp("many") / "work", SHARDS)
    many.write()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = {}
    for command in ("fit", "purge", "export"):
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, limits[1]))  # processes inherit it
        try:
            found[command] = many.watch(command)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(list((many.run / "scores").glob("*.parquet"))) == SHARDS
    assert (many.run / "metrics.jsonl").stat().st_size < 1_000
    assert len(list(Path(many.folder / "exported").glob("*.tar"))) > SHARDS / 4
    return found


STAGES = {
    "fit": f"Extracting features from {SHARDS} shards",
    "purge": f"Scoring {SHARDS} shards",
    "export": "Writing webdataset",
}


@pytest.mark.parametrize("command", STAGES)
def test_memory_and_open_files_do_not_grow_with_the_shards(looks, command):
    early, late = (at(looks[command], STAGES[command], share) for share in (0.3, 1.0))
    assert late.files <= early.files + 4
    assert late.used_bytes - early.used_bytes < 0.7 * SHARDS * BYTES
    assert late.blocks - early.blocks < 0.7 * SHARDS * BLOCKS
    assert max(look.files for look in looks[command]) < FILES
