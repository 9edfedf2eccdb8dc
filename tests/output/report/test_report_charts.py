from xml.etree import ElementTree

import numpy as np
import pytest

from nccleaner.output.report.charts import Axis, Chart


def plain(value: float) -> str:
    return f"{value:g}"


def chart(y_high: float = 10) -> Chart:
    return Chart(Axis("across", 0, 1, plain), Axis("up", 0, y_high, plain))


def drawn(of: Chart) -> ElementTree.Element:
    return ElementTree.fromstring(str(of.svg("what it says")))


def points(line: ElementTree.Element) -> np.ndarray:
    return np.array([pair.split(",") for pair in line.attrib["points"].split()], dtype=float)


def test_places_are_linear_in_the_values():
    xs, ys = [0, 0.25, 0.5, 1], [0, 10, 5, 2.5]
    of = chart()
    of.line(xs, ys, kind="a")
    places = points(drawn(of).find("polyline"))
    assert np.allclose(places[:, 0], np.interp(xs, [0, 1], places[[0, -1], 0]), atol=0.06)
    assert np.allclose(places[:, 1], np.interp(ys, [0, 10], places[[0, 1], 1]), atol=0.06)
    assert places[1, 1] < places[0, 1], "larger values are higher up"


def test_bars_are_as_tall_as_their_values():
    of = chart()
    of.bars([0, 0.5, 1], [0, 2], [4, 10], kind="a", hints=["one", "two"])
    bars = drawn(of).findall("rect")
    assert [bar.find("title").text for bar in bars] == ["one", "two"]
    heights = [float(bar.attrib["height"]) for bar in bars]
    assert heights[1] == pytest.approx(2 * heights[0], abs=0.2)
    bottoms = [float(bar.attrib["y"]) + float(bar.attrib["height"]) for bar in bars]
    assert bottoms[0] - bottoms[1] == pytest.approx(heights[0] / 2, abs=0.2)


def test_what_is_beyond_the_axes_stays_within_the_chart():
    of = chart()
    of.line([-5, 5], [-50, 50], kind="a")
    of.rule(7, "far away")
    svg = drawn(of)
    _, _, width, height = map(float, svg.attrib["viewBox"].split())
    places = points(svg.find("polyline"))
    assert (places >= 0).all()
    assert (places <= [width, height]).all()
    rule = svg.find("line[@class='rule']")
    assert 0 <= float(rule.attrib["x1"]) <= width


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1), (0.6, 1), (0, 3), (0, 1.7e9)])
def test_ticks_are_round_and_within(low, high):
    ticks = Axis("", low, high, plain).ticks()
    assert 3 <= len(ticks) <= 7
    assert low - 1e-6 <= min(ticks) <= max(ticks) <= high + 1e-6
    assert max(len(plain(tick)) for tick in ticks) <= 7


def test_steps_are_the_outline_of_bars():
    of = chart()
    of.steps([0, 0.5, 1], [4, 10], kind="a")
    of.line([0, 0.5, 0.5, 1], [4, 4, 10, 10], kind="a")
    steps, line = drawn(of).findall("polyline")
    assert steps.attrib == line.attrib


def test_a_band_goes_along_one_line_and_back_along_the_other():
    of = chart()
    of.band([0, 1], [1, 2], [3, 4], kind="a")
    of.line([0, 1, 1, 0], [1, 2, 4, 3], kind="a")
    svg = drawn(of)
    assert svg.find("polygon").attrib["points"] == svg.find("polyline").attrib["points"]


def test_text_is_escaped():
    of = Chart(Axis("<x>", 0, 1, lambda _: "<tick>"), Axis('"y"', 0, 1, plain))
    of.rule(0.5, "</text><script>")
    of.bars([0, 1], [0], [1], kind='"a', hints=["<b>"])
    of.cross((0.5, 0.4, 0.6), (0.5, 0.4, 0.6), "</title>")
    svg = ElementTree.fromstring(str(of.svg('"/><script>')))
    assert svg.attrib["aria-label"] == '"/><script>'
    texts = {element.text for element in svg.iter() if element.text}
    assert {"<x>", "<tick>", '"y"', "</text><script>", "<b>", "</title>"} <= texts
    assert not list(svg.iter("script"))
