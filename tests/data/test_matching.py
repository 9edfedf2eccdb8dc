from __future__ import annotations

import pyarrow as pa
import pytest

from nccleaner.data.matching import (
    FEW_PAIRS,
    MIN_PAIRS,
    TrustedMatch,
    TrustedPair,
    check_enough,
    match_trusted,
)
from nccleaner.data.trusted import RowProblem, read_trusted
from nccleaner.errors import TrustedError

COLUMNS = ("shard", "key", "uid", "url", "caption", "status")
SAMPLES = [
    ("00000", "000000012", "u12", "http://a/12", "a dog", "ok"),
    ("00000", "000000013", "u13", "http://a/13", "a cat", "ok"),
    ("00000", "000000014", "u14", "http://a/14", "a bird", "undecodable_image"),
    ("00000", "000000012", "u12", "http://a/12", "a dog again", "duplicate_key"),
    ("00001", "000000013", None, "http://a/x", "a house", "ok"),
    ("00001", "000000015", None, "http://a/x", " a tree\n", "ok"),
    ("00001", "000000016", "u16", None, None, "empty_caption"),
]


def catalog():
    columns = zip(*SAMPLES, strict=True)
    return pa.table({n: pa.array(c, pa.string()) for n, c in zip(COLUMNS, columns, strict=True)})


def read(tmp_path, text):
    path = tmp_path / "trusted.csv"
    path.write_text(text, encoding="utf-8")
    return read_trusted(path)


def match(tmp_path, text):
    return match_trusted(read(tmp_path, text), catalog())


def test_pairs_are_found_by_key_uid_url_and_image(tmp_path):
    (tmp_path / "own.jpg").touch()
    text = (
        "key,shard,uid,url,image,caption,label\n"
        "000000012,,,,,,1\n"
        "000000013,00001,,,,,0\n"
        ",,u13,,,,\n"
        ",,,http://a/12,,another caption,0\n"
        ",,,,own.jpg,my own,1\n"
    )
    assert match(tmp_path, text).problems == ()
    assert match(tmp_path, text).pairs == (
        TrustedPair(2, 1, "a dog", "00000", "000000012"),
        TrustedPair(3, 0, "a house", "00001", "000000013"),
        TrustedPair(4, 1, "a cat", "00000", "000000013"),
        TrustedPair(5, 0, "another caption", "00000", "000000012", overrides_caption=True),
        TrustedPair(6, 1, "my own", image=tmp_path.resolve() / "own.jpg"),
    )


def test_a_caption_like_the_samples_own_overrides_nothing(tmp_path):
    (pair,) = match(tmp_path, "key,caption\n000000015,a tree\n").pairs
    assert pair == TrustedPair(2, 1, " a tree\n", "00001", "000000015")


def test_rows_without_one_pair_are_reported(tmp_path):
    text = (
        "key,shard,uid,url\n"
        "12,,,\n"
        "nothing,,,\n"
        "000000013,,,\n"
        "000000012,00001,,\n"
        "000000014,,,\n"
        ",,,http://a/x\n"
        ",,u16,\n"
    )
    result = match(tmp_path, text)
    assert result.pairs == ()
    assert result.problems == (
        RowProblem(2, "key '12' is in no shard (keys are text: has it lost leading zeros?)"),
        RowProblem(3, "key 'nothing' is in no shard"),
        RowProblem(4, "key '000000013' fits 2 pairs; name the shard too"),
        RowProblem(5, "key '000000012' in shard '00001' is in no shard; shard '00000' has one"),
        RowProblem(6, "key '000000014' is no pair: '00000/000000014' is undecodable_image"),
        RowProblem(7, "url 'http://a/x' fits 2 pairs; name one by key and shard"),
        RowProblem(8, "uid 'u16' is no pair: '00001/000000016' is empty_caption"),
    )


def test_rows_about_the_same_pair_count_once_and_contradictions_not_at_all(tmp_path):
    text = (
        "key,shard,uid,caption,label\n"
        "000000012,,,,1\n"
        ",,u12,a dog,1\n"
        "000000012,,,a wolf,0\n"
        ",,u13,,1\n"
        "000000013,00000,,,0\n"
    )
    result = match(tmp_path, text)
    assert [pair.row for pair in result.pairs] == [2, 4]
    contradiction = "rows 5, 6 are about the same pair and differ in their label"
    assert result.problems == (
        RowProblem(3, "is about the same pair as row 2"),
        RowProblem(5, contradiction),
        RowProblem(6, contradiction),
    )


def test_every_row_is_a_pair_or_a_problem_in_a_large_catalog_in_chunks(tmp_path):
    n = 200_000
    keys = [f"{i:09d}" for i in range(n)]
    columns = (["s"] * n, keys, [None] * n, [f"u/{k}" for k in keys], ["c"] * n, ["ok"] * n)
    big = pa.table({c: pa.array(v, pa.string()) for c, v in zip(COLUMNS, columns, strict=True)})
    chunks = pa.concat_tables([big.slice(0, n // 3), big.slice(n // 3)])
    text = "key,url\n" + "".join(f"{i:09d},\n,u/{i + 1:09d}\n" for i in range(0, 2 * n, 997))
    table = read(tmp_path, text)
    result = match_trusted(table, chunks)
    rows = [pair.row for pair in result.pairs] + [problem.row for problem in result.problems]
    assert sorted(rows) == [row.row for row in table.rows]
    assert {pair.row: pair.key for pair in result.pairs} == {
        row.row: row.value.removeprefix("u/")
        for row in table.rows
        if int(row.value.removeprefix("u/")) < n
    }


def matched(n, n_mismatched=0, problems=()):
    labels = [0] * n_mismatched + [1] * (n - n_mismatched)
    pairs = [TrustedPair(row, label, "c") for row, label in enumerate(labels, start=2)]
    return TrustedMatch("trusted.csv", tuple(pairs), problems)


def test_too_few_pairs_are_refused_and_few_are_warned_of():
    with pytest.raises(TrustedError, match=r"usable pairs: 19, labelled 1: 19; needed are 20"):
        check_enough(matched(MIN_PAIRS - 1))
    with pytest.raises(TrustedError, match=r"labelled 1: 9;"):
        check_enough(matched(MIN_PAIRS, n_mismatched=11))
    with pytest.raises(TrustedError, match=r"Rows skipped: 1, the first is row 4: because\."):
        check_enough(matched(1, problems=(RowProblem(4, "because"),)))
    assert "only 20 usable pairs" in check_enough(matched(MIN_PAIRS, n_mismatched=10))
    assert "±22 percentage points" in check_enough(matched(MIN_PAIRS))
    assert "±10 percentage points" in check_enough(matched(FEW_PAIRS - 1))
    assert check_enough(matched(FEW_PAIRS)) == ""
