from html.parser import HTMLParser
from pathlib import Path

from browser import start_browser, visit
from builders import LIMITS, jpeg

from nccleaner.output.found import FoundPair, write_found
from nccleaner.output.thumbnails import make_thumbnails

EVIL = '<script>alert(1)</script>" onerror="alert(2)&amp;'


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def pair(number: int, **changes: object) -> FoundPair:
    fields = {
        "shard": "00000",
        "key": f"{number:09d}",
        "caption": f"caption {number}",
        "product": 0.9 - number / 10,
        "thumbnail": "data:image/jpeg;base64,AAAA",
    }
    return FoundPair(**{**fields, **changes})


def test_every_pair_is_there_in_order(tmp_path):
    write_found(tmp_path / "found.html", "a dog", [pair(0), pair(1, thumbnail=None), pair(2)])
    page = Page(tmp_path / "found.html")
    images = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert images == ["data:image/jpeg;base64,AAAA"] * 2
    assert "no image" in page.text
    assert "3 pairs nearest to “a dog”" in page.text
    places = [page.text.index(f"caption {number}") for number in range(3)]
    assert places == sorted(places)
    assert "0.800 · 00000/000000001" in page.text


def test_nothing_that_strangers_wrote_is_obeyed(tmp_path):
    path = tmp_path / "found.html"
    write_found(path, EVIL, [pair(0, caption=EVIL, key=EVIL, shard=EVIL)])
    page = Page(path)
    assert page.text.count(EVIL) == 4
    assert {tag for tag, _ in page.tags} <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "bdi", "ol", "li", "div", "img"),
        "p",
    }
    assert not [name for _, attributes in page.tags for name in attributes if name[:2] == "on"]


def test_the_page_loads_nothing(tmp_path):
    path = tmp_path / "found.html"
    write_found(path, "http://example.org/x.jpg", [pair(0)])
    page = Page(path)
    loads = {"src", "href", "srcset", "data", "poster", "action"}
    assert [v for _, a in page.tags for n, v in a.items() if n in loads] == [
        "data:image/jpeg;base64,AAAA"
    ]
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    assert "url(" not in path.read_text()
    assert "@import" not in path.read_text()


def test_text_that_is_no_unicode_is_written_all_the_same(tmp_path):
    write_found(tmp_path / "found.html", "\udcff", [pair(0, key="\udc80")])
    assert "00000/?" in Page(tmp_path / "found.html").text


def test_a_browser_shows_it_and_asks_for_nothing(tmp_path):
    path = tmp_path / "found.html"
    ((_, uri),) = make_thumbnails([(0, jpeg())], size_px=64, limits=LIMITS, workers=0)
    write_found(path, EVIL, [pair(n, caption=EVIL * 20, thumbnail=uri) for n in range(9)])
    with start_browser() as browser:
        for width in (1280, 400):
            with visit(browser, path, width=width) as seen:
                seen.page.evaluate("Promise.all([...document.images].map(i => i.decode()))")
                widths = seen.page.evaluate("[...document.images].map(i => i.naturalWidth)")
                assert widths == [32] * 9
                assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
                assert [url for url in seen.requests if url != path.as_uri()] == []
                assert seen.complaints == []
