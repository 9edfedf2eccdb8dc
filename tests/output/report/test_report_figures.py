from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from reports import make_report, make_summary

from nccleaner.output.report.figures import (
    Curve,
    CurveChart,
    draw_curves,
    draw_distribution,
    draw_shares,
    draw_trade_off,
)


def parsed(markup: object) -> ElementTree.Element:
    return ElementTree.fromstring(str(markup))


def points(element: ElementTree.Element) -> np.ndarray:
    return np.array([pair.split(",") for pair in element.attrib["points"].split()], dtype=float)


def test_bars_of_both_kinds_stand_on_each_other():
    distribution = make_report().distribution
    svg = parsed(draw_distribution(distribution))
    heights = {
        kind: np.array(
            [float(bar.attrib["height"]) for bar in svg.findall(f"rect[@class='{kind}']")]
        )
        for kind in ("matched", "mismatched")
    }
    unit = heights["matched"][-1] / distribution.matched[-1]
    assert np.allclose(heights["matched"], distribution.matched * unit, atol=0.2)
    assert np.allclose(heights["mismatched"], distribution.mismatched * unit, atol=0.2)
    tops = [float(bar.attrib["y"]) for bar in svg.findall("rect[@class='matched']")]
    assert np.ptp(tops) < 0.2, "matched and mismatched add up to nine everywhere"


def test_the_cut_off_is_where_its_value_is():
    distribution = replace(make_report().distribution, cut_off=0.3)
    svg = parsed(draw_distribution(distribution))
    rule = float(svg.find("line[@class='rule']").attrib["x1"])
    third_bar = svg.findall("rect[@class='matched']")[3]
    assert rule == pytest.approx(float(third_bar.attrib["x"]), abs=0.1)
    assert "cut-off 0.3" in {text.text for text in svg.findall("text")}


def test_an_empty_data_set_can_be_drawn():
    distribution = make_report().distribution
    nothing = np.zeros_like(distribution.matched)
    empty = replace(
        distribution,
        matched=nothing,
        mismatched=nothing,
        labelled_matched=nothing,
        labelled_mismatched=nothing,
    )
    assert parsed(draw_distribution(empty)).find("line[@class='rule']") is not None


def test_precision_lies_in_its_band():
    svg = parsed(draw_trade_off(make_summary()))
    line, band = points(svg.find("polyline")), points(svg.find("polygon"))
    low, high = band[: len(line)], band[len(line) :][::-1]
    assert np.array_equal(line[:, 0], low[:, 0])
    assert np.array_equal(line[:, 0], high[:, 0])
    assert (high[:, 1] <= line[:, 1]).all(), "up is smaller"
    assert (line[:, 1] <= low[:, 1]).all()
    assert (np.diff(line[:, 0]) >= 0).all()


def test_the_purge_is_a_point_on_the_trade_off():
    summary = make_summary()
    svg = parsed(draw_trade_off(summary))
    point = svg.find("circle")
    place = [float(point.attrib["cx"]), float(point.attrib["cy"])]
    assert np.abs(points(svg.find("polyline")) - place).sum(axis=1).min() < 0.2
    assert len(points(svg.find("polyline"))) == len(summary.cut_offs) + 1


def test_what_is_not_known_is_not_drawn():
    summary = make_summary()
    unknown = [replace(choice, mismatched=None) for choice in summary.cut_offs]
    assert not draw_trade_off(replace(summary, cut_offs=unknown))
    svg = parsed(draw_trade_off(replace(summary, precision=None, mismatched_after=None)))
    assert svg.find("circle") is None
    assert "not known" in svg.attrib["aria-label"]


@pytest.mark.parametrize("axis", ["loss", "share"])
def test_curves_have_a_point_for_each_epoch(axis):
    values = [0.9, 0.4, 0.7]
    chart = CurveChart(
        title="T", axis=axis, epochs=[4, 5, 6], best=5, curves=[Curve("a", "matched", values)]
    )
    svg = parsed(draw_curves(chart))
    places = points(svg.find("polyline"))
    assert np.argsort(-places[:, 1]).tolist() == np.argsort(values).tolist()
    assert float(svg.find("line[@class='rule']").attrib["x1"]) == places[1, 0]


def test_one_epoch_can_be_drawn():
    chart = CurveChart(
        title="T", axis="loss", epochs=[1], best=9, curves=[Curve("a", "matched", [0.0])]
    )
    assert parsed(draw_curves(chart)).find("line[@class='rule']") is None


def test_parts_fill_the_bar():
    bars = parsed(draw_shares({"matched": 1, "mismatched": 2, "rejected": 0})).findall("rect")
    assert [float(bar.attrib["width"]) for bar in bars] == [33.33, 66.67, 0]
    assert [float(bar.attrib["x"]) for bar in bars] == [0, 33.33, 100]
