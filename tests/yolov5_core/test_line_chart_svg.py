import re
from typing import Any

import pytest

from yolov5_core.line_chart_svg import Line, LineChart, draw_lines


def chart(*values: float | None, **changed: Any) -> LineChart:
    points = [f"point {i}" for i in range(len(values))]
    told = {"title": "t", "points": points, "ticks": points, "lines": [Line("a", "n", values)]}
    return LineChart(**{**told, **changed})


def axis(svg: str) -> list[str]:
    return re.findall(r'text-anchor="end">(-?[\d.,]+)<', svg)


def test_the_axis_has_round_values_around_the_data():
    assert axis(draw_lines(chart(0.31, 0.52))) == ["0.3", "0.4", "0.5", "0.6"]


def test_small_differences_stay_small():
    assert axis(draw_lines(chart(0.500, 0.501, least_span=0.05))) == [
        *("0.46", "0.48", "0.50", "0.52", "0.54"),
    ]


def test_an_axis_of_counts_never_goes_below_zero():
    assert axis(draw_lines(chart(0.0, 0.0, least_span=1.0)))[0] == "0.0"


def test_the_highest_value_is_the_highest_point():
    points = re.search(r'<path class="a" d="M(.*?)"', draw_lines(chart(0.0, 1.0, 0.5)))
    assert points
    ys = [float(pair.split()[1]) for pair in points[1].split("L")]
    assert ys == [143.0, 10.0, 76.5]


def test_a_single_value_is_a_dot():
    svg = draw_lines(chart(0.5))
    assert svg.count("<circle") == 1
    assert "<path" not in svg


def test_unknown_values_are_left_out():
    svg = draw_lines(chart(0.5, None, 0.7))
    assert svg.count("<circle") == 2
    assert "point 1: nothing known" in svg


@pytest.mark.parametrize("values", [(), (None, None)])
def test_nothing_to_draw_is_said(values: tuple[None, ...]):
    assert "no values" in draw_lines(chart(*values))


def test_ten_thousand_epochs_are_thinned_and_the_best_stays():
    values = [0.0] * 10_000
    values[5001] = 1.0
    svg = draw_lines(chart(*values, marked=5001))
    assert len(svg) < 60_000
    assert svg.count("<title>") <= 101
    assert " 10.0L" in svg  # the top is reached


@pytest.mark.parametrize("value", [1e-9, 1e9, -3.0, 0.0])
def test_values_of_any_size_have_an_axis(value: float):
    assert len(axis(draw_lines(chart(value, value)))) >= 2


def test_names_do_not_become_markup():
    told = chart(1.0, 2.0, title='"><b>', points=["<i>", "&"], ticks=["<u>", "x"])
    svg = draw_lines(told)
    assert not re.search("<[biu]>", svg)


def test_a_value_above_the_ceiling_is_drawn_at_the_top():
    svg = draw_lines(chart(100.0, 1.0, 0.5, ceiling=1.0, from_zero=True))
    points = re.search(r'<path class="a" d="M(.*?)"', svg)
    assert points
    assert [float(pair.split()[1]) for pair in points[1].split("L")] == [10.0, 10.0, 76.5]
    assert "point 0: n 100" in svg
