"""The inputs that fuzzing starts from, and those that it found, read again."""

from __future__ import annotations

from pathlib import Path

import pytest
from anybytes import read_as_shards

CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_the_reader_stands_it(path: Path, tmp_path: Path) -> None:
    read_as_shards(path.read_bytes(), tmp_path)


def test_there_is_something_of_every_kind() -> None:
    kinds = {path.name.partition("-")[0] for path in CORPUS}
    assert kinds >= {"tar", "json", "parquet"}
