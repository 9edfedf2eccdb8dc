"""What strangers write, made up by hypothesis, against the parsers of ours."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby, product
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from builders import LIMITS, make_rows, row_members, tar_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nccleaner.data.captions import caption_field, parse_fields
from nccleaner.data.locations import expand_braces, find_shards
from nccleaner.data.members import Member, group_members
from nccleaner.data.metadata import JsonColumns
from nccleaner.data.reading import ShardReading
from nccleaner.data.trusted import read_trusted
from nccleaner.errors import NccleanerError, TrustedError, UsageError
from nccleaner.records import OK
from nccleaner_cli.settings import build_config

thorough = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

CELLS = st.one_of(
    st.sampled_from(
        ["key", "uid", "url", "image", "caption", "label", "shard", "0", "1", "\ufeff"]
    ),
    st.text(max_size=12),
)
TABLES = st.lists(st.lists(CELLS, max_size=5), max_size=6)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@thorough
@given(
    content=st.one_of(
        st.binary(max_size=200),
        TABLES.map(lambda rows: "\n".join(map(",".join, rows)).encode("utf-8", "surrogatepass")),
    ),
    suffix=st.sampled_from([".csv", ".tsv", ".parquet"]),
)
def test_a_trusted_file_is_read_or_refused(folder, content, suffix):
    path = folder / f"trusted{suffix}"
    path.write_bytes(content)
    table = None
    with suppress(TrustedError):
        table = read_trusted(path)
    if table is None:
        return
    told = [row.row for row in table.rows] + [problem.row for problem in table.problems]
    assert len(told) == len(set(told)), "no row is told of twice"
    assert all(row.value and row.label in (0, 1) for row in table.rows)


NAMES = st.text("ab./_", min_size=1, max_size=5)
WORDS = st.lists(st.text("abc", min_size=0, max_size=3), min_size=2, max_size=3)
RANGES = st.tuples(st.integers(0, 12), st.integers(0, 12)).map(sorted)


@thorough
@given(pieces=st.lists(st.one_of(NAMES, WORDS, RANGES), max_size=4))
def test_braces_expand_to_all_choices_in_order(pieces):
    pattern, choices = "", []
    for piece in pieces:
        if isinstance(piece, str):
            pattern, found = pattern + piece, [piece]
        elif isinstance(piece[0], int):
            pattern += f"{{{piece[0]}..{piece[1]}}}"
            found = [str(number) for number in range(piece[0], piece[1] + 1)]
        else:
            pattern, found = pattern + "{" + ",".join(piece) + "}", piece
        choices.append(found)
    assert list(expand_braces(pattern)) == ["".join(names) for names in product(*choices)]


@thorough
@given(pattern=st.text(st.sampled_from("{},.0123ab*?[]/\\ \0é"), max_size=12))
def test_a_pattern_finds_shards_or_says_why_not(folder, pattern):
    with pytest.raises(NccleanerError):
        find_shards(str(folder / "nothing-here") + "/" + pattern)


MEMBERS = st.lists(
    st.tuples(st.sampled_from(["a", "b", "dir/a"]), st.sampled_from(["jpg", "txt", "json", "cls"])),
    max_size=12,
)


@thorough
@given(names=MEMBERS)
def test_every_member_is_in_one_group_and_none_mixes_keys(names):
    members = [Member(key, suffix, 1, b"x") for key, suffix in names]
    groups = list(group_members(members))
    assert [member for group in groups for member in group.members.values()] == members
    assert all(member.key == group.key for group in groups for member in group.members.values())
    assert [group.last for group in groups] == [False] * (len(groups) - 1) + [True] * bool(groups)
    runs = [len(list(run)) for _, run in groupby(names, key=lambda name: name[0])]
    assert len(groups) >= len(runs)


LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(st.sampled_from(["data", "train", "epochs", "seed"]), st.text(max_size=5)),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=8,
)


@thorough
@given(
    content=st.one_of(
        st.binary(max_size=100),
        TREES.map(lambda tree: json.dumps(tree).encode()),
    ),
    suffix=st.sampled_from([".json", ".toml"]),
)
def test_a_configuration_is_read_or_refused(folder, content, suffix):
    path = folder / f"settings{suffix}"
    path.write_bytes(content)
    with suppress(UsageError):
        build_config(None, path, [], {})


@pytest.mark.parametrize(
    ("opening", "suffix"), [("[", ".json"), ('{"a":', ".json"), ("a=[", ".toml")]
)
def test_a_configuration_nested_without_end_is_refused(tmp_path, opening, suffix):
    path = tmp_path / f"settings{suffix}"
    path.write_text(opening + opening[-1] * 100_000 if suffix == ".toml" else opening * 100_000)
    with pytest.raises(UsageError, match="cannot be read"):
        build_config(None, path, [], {})


@thorough
@given(text=st.text(max_size=30))
def test_an_assignment_is_understood_or_refused(text):
    with suppress(UsageError):
        build_config(None, None, [text], {})


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=6)
VALUES = st.one_of(
    LEAVES, ANY_TEXT, st.integers(-(2**70), 2**70), st.lists(LEAVES, max_size=3), TREES
)
DOCUMENTS = st.dictionaries(
    st.one_of(st.sampled_from(["caption", "key", "a"]), ANY_TEXT), VALUES, max_size=4
)


@thorough
@given(documents=st.lists(DOCUMENTS, max_size=5))
def test_fields_of_any_kind_become_columns_that_can_be_written(documents):
    columns = JsonColumns()
    for document in documents:
        fields, problem = parse_fields(json.dumps(document).encode())
        assert problem == ""
        columns.add(caption_field(fields), fields)
    keys = [str(number) for number in range(len(documents))]
    table = columns.table(keys)
    assert table["key"].to_pylist() == keys
    pq.write_table(table, io.BytesIO())


ROWS = make_rows(3)
TAR = tar_bytes([member for row in ROWS for member in row_members(row)])
SPLICES = st.lists(
    st.tuples(st.integers(0, len(TAR)), st.integers(0, 600), st.binary(max_size=600)),
    min_size=1,
    max_size=4,
)


@thorough
@given(splices=SPLICES)
def test_a_tar_with_pieces_cut_out_and_put_in_is_read_to_its_end(folder, splices):
    data = TAR
    for start, length, inserted in splices:
        data = data[:start] + inserted + data[start + length :]
    path = folder / "00000.tar"
    path.write_bytes(data)
    (shard,) = find_shards(path)
    reading = ShardReading(shard, limits=LIMITS)
    samples = list(reading)
    assert reading.metadata().num_rows == len(samples)
    for sample in samples:
        if sample.status == OK:
            assert sample.key
            assert sample.image
            assert sample.caption
