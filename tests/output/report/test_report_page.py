import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from jinja2 import UndefinedError
from reports import HOSTILE, data_uri, make_report, with_pictures

from nccleaner.output.report.page import render_report, write_report


class Elements(HTMLParser):
    """All elements with their attributes, and the text of those of one class."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.captions: list[str] = []
        self._in_caption = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if dict(attrs).get("class") == "caption":
            self._in_caption = True
            self.captions.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_caption = self._in_caption and tag != "p"

    def handle_data(self, data: str) -> None:
        if self._in_caption:
            self.captions[-1] += data


def test_captions_arrive_as_text():
    report = make_report()
    captions = Elements(render_report(report)).captions
    pairs = [pair for gallery in report.galleries for pair in gallery.pairs] + [*report.sample]
    assert len(captions) == len(pairs)
    for shown, pair in zip(captions, pairs, strict=True):
        if len(pair.caption) < 600:
            assert shown == pair.caption.replace("\ud800", "?")
        else:
            assert len(shown) == 600
            assert pair.caption.startswith(shown[:-1])
            assert shown.endswith("…")


def test_nothing_that_strangers_wrote_becomes_an_element():
    harmless = make_report()
    plain = [replace(pair, caption="a") for pair in harmless.sample]
    harmless = replace(harmless, name="run", sample=plain)
    harmful = replace(harmless, sample=[replace(pair, caption=HOSTILE[1]) for pair in plain])
    tags = [[tag for tag, _ in Elements(render_report(of)).found] for of in (harmless, harmful)]
    assert tags[0] == tags[1]
    elements = Elements(render_report(make_report())).found
    assert [tag for tag, _ in elements].count("script") == 1
    assert not {"iframe", "base", "object", "i"} & {tag for tag, _ in elements}
    assert not [attrs for _, attrs in elements if any(name.startswith("on") for name in attrs)]


def test_nothing_points_out_of_the_page():
    page = render_report(make_report())
    targets = [
        attrs[name]
        for _, attrs in Elements(page).found
        for name in ("src", "href")
        if name in attrs
    ]
    assert targets
    assert all(re.match(r"data:|#", target) for target in targets)


@pytest.mark.parametrize("part", ["style", "script"])
def test_the_policy_allows_what_is_in_the_page_and_no_more(part):
    page = render_report(make_report())
    policy = next(
        attrs["content"]
        for tag, attrs in Elements(page).found
        if tag == "meta" and attrs.get("http-equiv") == "Content-Security-Policy"
    )
    content = re.search(f"<{part}>(.*?)</{part}>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    assert f"{part}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


def test_links_within_the_page_lead_somewhere():
    elements = Elements(render_report(make_report())).found
    names = {attrs["id"] for _, attrs in elements if "id" in attrs}
    links = {attrs["href"][1:] for tag, attrs in elements if tag == "a"}
    assert len(links) == 6
    assert links <= names


def test_what_is_not_known_is_said():
    report = make_report()
    summary = replace(
        report.summary,
        mismatched_before=None,
        mismatched_after=None,
        good_lost=None,
        precision=None,
        recall=None,
        cut_offs=[replace(of, mismatched=None, recall=None) for of in report.summary.cut_offs],
    )
    page = render_report(replace(report, summary=summary, training=[]))
    assert page.count("not known") == 3 + 20
    assert 'id="training"' not in page
    assert page.count("<figure>") == 1


def test_the_worst_pictures_and_captions_fit_into_15_megabytes(tmp_path):
    # As many pairs and shards as the pipeline shows at most, none of which compresses.
    noise = np.random.default_rng(0).integers(0, 256, (160, 160, 3), dtype=np.uint8)
    report = make_report(300)
    report = replace(
        report,
        galleries=[replace(report.galleries[0], pairs=report.sample[:18])] * 5,
        shards=[replace(report.shards[1], problem="é" * 5000)] * 100,
    )
    report = with_pictures(report, data_uri(noise), "'\"é\U0001f408" * 2500)
    write_report(report, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 15e6


def test_the_same_report_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_report(make_report(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_report_that_fails_leaves_the_one_before(tmp_path):
    path = tmp_path / "report.html"
    write_report(make_report(), path)
    before = path.read_bytes()
    broken = replace(make_report(), summary=replace(make_report().summary, cut_off=None))
    with pytest.raises(UndefinedError, match="column"):
        write_report(broken, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
