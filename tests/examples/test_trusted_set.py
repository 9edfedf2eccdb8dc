"""The page on which a trusted set is made, in a browser, and the file that it saves."""

from __future__ import annotations

import re
import runpy
from collections import Counter
from pathlib import Path

import pytest
from browser import start_browser, visit
from builders import Row, jpeg, make_rows, write_webdataset_shard
from playwright.sync_api import Page
from smallfit import write_csv

from nccleaner.data.trusted import read_trusted
from nccleaner.records import Sample

DRAW = Path(__file__).resolve().parents[2] / "examples" / "trusted_set" / "draw.py"
HOSTILE = """</script><script>document.title = "broken"</script><img src=x onerror=alert(1)> 'a'"""


@pytest.fixture
def page(tmp_path, monkeypatch, type_example):
    """A page for 6 of 7 pairs: one image does not decode. One caption is an attack."""
    rows = make_rows(7)
    rows[2] = Row(rows[2].key, HOSTILE, jpeg("blue"))
    rows[5] = Row(rows[5].key, "a cut image", jpeg()[:300])
    write_webdataset_shard(tmp_path / "shards", "00000", rows)
    monkeypatch.chdir(tmp_path)
    type_example("trusted_set/draw.py", "shards", "judge.html", "--count", "7")
    return tmp_path / "judge.html"


def name_of_shown(tab: Page) -> str:
    return re.search(r"\w+/\w+", tab.text_content("#where"))[0]


def test_what_is_pressed_becomes_a_trusted_file(page, tmp_path):
    judged, captions = {}, []
    with start_browser() as browser, visit(browser, page) as seen:
        tab = seen.page
        for key in "110":
            judged[name_of_shown(tab)] = int(key)
            captions.append(tab.text_content("#caption"))
            tab.keyboard.press(key)
        tab.keyboard.press("ArrowLeft")  # the mind is changed about the last one
        judged[name_of_shown(tab)] = 1
        tab.click("#yes")
        for key in "011":
            judged[name_of_shown(tab)] = int(key)
            captions.append(tab.text_content("#caption"))
            tab.keyboard.press(key)
        tab.reload()
        assert "Judged 6: 5 matched, 1 mismatched." in tab.text_content("#where"), "not remembered"
        assert tab.evaluate("document.getElementById('image').naturalWidth") == 32
        with tab.expect_download() as download:
            tab.click("#save")
        download.value.save_as(tmp_path / "trusted.csv")

        assert HOSTILE in captions
        assert tab.title() == "Does the caption describe the image?"
        assert not seen.complaints
        assert {url.partition(":")[0] for url in seen.requests} <= {"file", "blob"}
    table = read_trusted(tmp_path / "trusted.csv")
    assert not table.problems
    assert {f"{row.shard}/{row.value}": row.label for row in table.rows} == judged
    assert len(judged) == 6


def test_the_page_shows_what_decodes(page, capsys, type_example):
    type_example("trusted_set/draw.py", "shards", "again.html", "--count", "7")
    told = capsys.readouterr().out
    assert "Drew 7 of 7 pairs; the images of 6 can be shown.\n" in told
    assert Path("again.html").read_bytes() == page.read_bytes()


def test_the_share_of_mismatched_pairs_has_its_interval(tmp_path, capsys, type_example):
    rows = [(f"{key:03d}", int(key >= 27)) for key in range(300)]
    path = write_csv(tmp_path / "trusted.csv", ["key", "label"], [*rows, ("300", "maybe")])
    type_example("trusted_set/read.py", str(path))
    problem, counts, share = capsys.readouterr().out.splitlines()
    assert problem.startswith("Row 302: ")
    assert counts == "300 pairs: 273 matched, 27 mismatched."
    # Clopper and Pearson: quantiles of Beta(27, 274) and Beta(28, 273).
    assert "9.0% of the shards' pairs" in share
    assert "(95% interval 6.0% to 12.8%)" in share


def test_every_pair_has_the_same_chance():
    draw = runpy.run_path(str(DRAW))["draw"]
    pairs = [Sample("00000", str(key), b"", "a caption") for key in range(20)]
    counts = Counter()
    for seed in range(2000):
        drawn, seen = draw(iter(pairs), count=5, seed=seed)
        keys = {pair.key for pair in drawn}
        assert (len(keys), seen) == (5, 20)
        counts.update(keys)
    # 500 are expected of each, with a standard deviation of 19.
    assert min(counts.values()) > 500 - 4 * 19
    assert max(counts.values()) < 500 + 4 * 19


def test_a_file_without_usable_rows_says_so(tmp_path, capsys, type_example):
    path = write_csv(tmp_path / "trusted.csv", ["key", "label"], [("000", "maybe")])
    with pytest.raises(SystemExit, match="No row names a pair"):
        type_example("trusted_set/read.py", str(path))
    assert capsys.readouterr().out.startswith("Row 2: ")


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("trusted_set/read.py", ["missing.csv"]),
        ("trusted_set/draw.py", ["missing/", "judge.html"]),
        ("fit_on_a_sample.py", ["missing/", "trusted.csv"]),
    ],
)
def test_an_example_that_cannot_work_says_why(
    tmp_path, monkeypatch, type_example, script, arguments
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"missing.*(Check|Give) the path"):
        type_example(script, *arguments)
