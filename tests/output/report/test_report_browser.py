"""The page in a real browser."""

import re
from pathlib import Path

import pytest
from browser import start_browser, visit
from reports import HOSTILE, make_report

from nccleaner.output.report.page import write_report

REPORT = make_report(26)


@pytest.fixture(scope="module")
def browser():
    with start_browser() as started:
        yield started


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(REPORT, path)
    return path


def keys(page) -> list[str]:
    """Keys of the rows that are to be seen, in their order."""
    names = page.locator("#pairs tbody tr:visible .name").all_inner_texts()
    return [name.split("/")[1] for name in names]


def sample_keys(order) -> list[str]:
    return [pair.key for pair in sorted(REPORT.sample, key=order)]


def click_heading(page, title: str) -> None:
    page.locator("#pairs thead").get_by_role("button", name=re.compile(f"^{title}")).click()


def sorted_as(page, title: str) -> str | None:
    heading = page.locator("#pairs thead th").filter(has_text=re.compile(f"^{title}"))
    return heading.first.get_attribute("aria-sort")


def test_nothing_is_loaded_and_nothing_complains(browser, path):
    with visit(browser, path) as seen:
        seen.page.mouse.wheel(0, 20_000)
        click_heading(seen.page, "Caption")
        seen.page.get_by_label("Find").fill("img")
        seen.page.wait_for_timeout(200)
    assert seen.requests == [path.as_uri()]
    assert seen.complaints == []


def test_what_hostile_captions_try_does_not_happen(browser, path):
    with visit(browser, path) as seen:
        assert seen.page.evaluate("window.harmed") is None
        assert seen.page.title() == f"{REPORT.name}: nccleaner report"
        shown = seen.page.locator("#pairs .caption").all_text_contents()
        tame = [caption for caption in HOSTILE if caption.isprintable() and len(caption) < 600]
        assert len(tame) > 8
        assert shown[: len(tame)] == tame
        assert seen.page.locator("#pairs td:has(.caption) > *").count() == len(REPORT.sample)
    assert seen.complaints == []


def test_the_policy_stops_what_would_get_in(browser, path):
    with visit(browser, path) as seen:
        seen.page.evaluate(
            """() => {
              const script = document.createElement("script");
              script.textContent = "window.harmed = 1";
              const image = document.createElement("img");
              image.src = "https://example.org/a.png";
              document.body.append(script, image);
            }"""
        )
        seen.page.wait_for_timeout(200)
        assert seen.page.evaluate("window.harmed") is None
    assert sum("Content Security Policy" in complaint for complaint in seen.complaints) == 2


@pytest.mark.parametrize(
    ("title", "order"),
    [
        ("Clean probability", lambda pair: pair.clean_probability),
        ("Corrected similarity", lambda pair: pair.corrected_similarity),
        ("Similarity", lambda pair: pair.similarity),
        ("Pair", lambda pair: (pair.shard, pair.key)),
    ],
)
def test_a_heading_sorts_up_and_then_down(browser, path, title, order):
    with visit(browser, path) as seen:
        assert keys(seen.page) == [pair.key for pair in REPORT.sample]
        click_heading(seen.page, title)
        assert keys(seen.page) == sample_keys(order)
        assert sorted_as(seen.page, title) == "ascending"
        click_heading(seen.page, title)
        assert keys(seen.page) == sample_keys(order)[::-1]
        assert sorted_as(seen.page, title) == "descending"


def test_text_is_sorted_as_people_do(browser, path):
    with visit(browser, path) as seen:
        seen.page.get_by_label("Find").fill("caption number")
        click_heading(seen.page, "Caption")
        shown = seen.page.locator("#pairs tbody tr:visible .caption").all_inner_texts()
    numbers = [int(caption.split()[-1]) for caption in shown]
    assert numbers == list(range(len(numbers))), "2 before 10"


def test_the_keyboard_sorts(browser, path):
    with visit(browser, path) as seen:
        seen.page.locator("#shown").evaluate(
            "element => element.closest('form').elements[4].focus()"
        )
        for _ in range(3):  # the region that scrolls, the caption, the clean probability
            seen.page.keyboard.press("Tab")
        seen.page.keyboard.press("Enter")
        assert keys(seen.page) == sample_keys(lambda pair: pair.clean_probability)
        assert sorted_as(seen.page, "Clean probability") == "ascending"
        seen.page.keyboard.press("Tab")
        seen.page.keyboard.press("Space")
        assert sorted_as(seen.page, "Corrected similarity") == "ascending"
        assert sorted_as(seen.page, "Clean probability") is None


def test_shards_are_sorted_by_their_counts(browser, path):
    with visit(browser, path) as seen:
        seen.page.locator("#shards").get_by_role("button", name="No pair").click()
        names = seen.page.locator("#shards tbody .name").all_inner_texts()
        seen.page.locator("#shards").get_by_role("button", name="No pair").click()
        reverse = seen.page.locator("#shards tbody .name").all_inner_texts()
    assert names[-1] == reverse[0] == "00001"


def test_filters_narrow_together_and_go_away(browser, path):
    def expected(text: str = "", decision: str = "", least: float = 0, most: float = 1):
        return [
            pair.key
            for pair in REPORT.sample
            if text in f"{pair.caption} {pair.shard}/{pair.key}".lower()
            and decision in ("", "kept" if pair.kept else "dropped")
            and least <= pair.clean_probability <= most
        ]

    with visit(browser, path) as seen:
        page, count = seen.page, seen.page.locator("#shown")
        total = len(REPORT.sample)
        assert count.inner_text() == f"{total} of {total} pairs"
        page.get_by_label("Find").fill("NUMBER  caption")
        assert keys(page) == expected("caption number")
        page.get_by_label("Decision").select_option("kept")
        assert keys(page) == expected("caption number", "kept")
        page.get_by_label("Clean probability from").fill("0.4")
        page.get_by_label("to", exact=True).fill("0.8")
        found = expected("caption number", "kept", 0.4, 0.8)
        assert keys(page) == found
        assert 0 < len(found) < total
        assert count.inner_text() == f"{len(found)} of {total} pairs"
        page.get_by_role("button", name="Show all").click()
        assert keys(page) == expected()
        page.get_by_label("Find").fill("00001/000000004")
        assert keys(page) == ["000000004"]
        page.get_by_label("Find").fill("no such words")
        assert keys(page) == []
        page.get_by_label("Find").press("Enter")
    assert seen.requests == [path.as_uri()], "the form is not sent"


def test_without_scripts_everything_is_there_but_the_form(browser, path):
    with visit(browser, path, scripts=False) as seen:
        assert len(keys(seen.page)) == len(REPORT.sample)
        assert not seen.page.locator("form").is_visible()
    assert seen.complaints == []


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_fits_the_screen(browser, path, width):
    with visit(browser, path, width=width) as seen:
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
        sizes = seen.page.evaluate(
            """() => [...document.querySelectorAll(".chart")].map((chart) =>
                 parseFloat(getComputedStyle(chart).fontSize)
                 * chart.getBoundingClientRect().width / chart.viewBox.baseVal.width)"""
        )
        assert len(sizes) == 3
        assert all(10 <= size <= 18 for size in sizes), sizes
        beyond = seen.page.evaluate(
            """() => [...document.querySelectorAll(".chart")].flatMap((chart) => {
                 const box = chart.getBoundingClientRect();
                 return [...chart.querySelectorAll("text")].filter((text) => {
                   const own = text.getBoundingClientRect();
                   return own.left < box.left - 1 || own.right > box.right + 1;
                 }).map((text) => text.textContent);
               })"""
        )
        assert beyond == []


@pytest.mark.parametrize("width", [1280, 400])
def test_a_very_long_caption_is_clamped_until_it_is_chosen(browser, path, width):
    with visit(browser, path, width=width) as seen:
        caption = seen.page.locator("#pairs .caption").nth(len(HOSTILE) - 1)
        before = caption.bounding_box()["height"]
        assert before < 80
        caption.focus()
        assert caption.bounding_box()["height"] > before


def test_right_to_left_captions_do_not_turn_the_rest(browser, path):
    with visit(browser, path) as seen:
        directions = {
            caption: seen.page.locator("#pairs .caption")
            .filter(has_text=caption)
            .first.evaluate("element => getComputedStyle(element).direction")
            for caption in ("صورة", "caption number 3")
        }
        cell = seen.page.locator("#pairs tr").filter(has_text="صورة").locator(".name")
        assert cell.evaluate("element => getComputedStyle(element).direction") == "ltr"
    assert list(directions.values()) == ["rtl", "ltr"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(browser, path, scheme):
    with visit(browser, path, scheme=scheme) as seen:
        colors = seen.page.evaluate(
            """() => {
              const style = getComputedStyle(document.documentElement);
              return Object.fromEntries(
                ["page", "panel", "ink", "quiet", "accent", "kept", "dropped"].map(
                  (name) => [name, style.getPropertyValue(`--${name}`).trim()]));
            }"""
        )
    for text, grounds in {
        "ink": ("page", "panel", "kept", "dropped"),
        "quiet": ("page", "panel"),
        "accent": ("page", "panel"),
    }.items():
        for ground in grounds:
            assert contrast(colors[text], colors[ground]) >= 4.5, (text, ground)


def contrast(one: str, other: str) -> float:
    """Contrast ratio of WCAG 2, 1 to 21."""
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def luminance(color: str) -> float:
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return float(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
