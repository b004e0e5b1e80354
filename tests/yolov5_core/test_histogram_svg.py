import re
from typing import Any

import pytest

from yolov5_core.histogram_svg import CHARTS, draw_histogram
from yolov5_core.histograms import EDGES


def values_of(
    name: str,
    train: dict[int, int],
    val: dict[int, int] | None = None,
    previous: dict[int, int] | None = None,
) -> dict[str, Any]:
    def counts(places: dict[int, int]) -> list[int]:
        return [places.get(i, 0) for i in range(len(EDGES[name]) - 1)]

    return {
        "edges": EDGES[name].tolist(),
        "train": counts(train),
        "val": counts(val or {}),
        "previous": None if previous is None else counts(previous),
    }


def bar_heights(svg: str) -> list[float]:
    bars = re.findall(r'<rect class="train"[^>]* height="([\d.]+)"', svg)
    return [float(height) for height in bars if float(height) > 0]


def test_every_histogram_has_a_chart():
    assert set(CHARTS) == set(EDGES)


def test_bars_are_as_high_as_their_share():
    heights = bar_heights(draw_histogram("brightness", values_of("brightness", {3: 30, 4: 10})))
    assert len(heights) == 2
    assert heights[0] == pytest.approx(3 * heights[1])


def test_sets_of_different_size_are_drawn_in_shares():
    svg = draw_histogram("brightness", values_of("brightness", {3: 30, 4: 10}, val={3: 3, 4: 1}))
    line = re.search(r'<path class="val" d="M([^"]+)"', svg)
    assert line is not None
    tops = {float(point.split()[1]) for point in line[1].split("L")}
    bars = {float(y) for y in re.findall(r'<rect class="train"[^>]* y="([\d.]+)"', svg)}
    assert tops == bars


def test_only_sets_with_something_in_them_have_a_line():
    svg = draw_histogram("box_size", values_of("box_size", {20: 1}))
    assert "<path" not in svg
    svg = draw_histogram("box_size", values_of("box_size", {20: 1}, previous={22: 1}))
    assert re.findall(r'<path class="(\w+)"', svg) == ["previous"]


def test_empty_margins_are_not_drawn():
    wide = draw_histogram("brightness", values_of("brightness", {2: 1, 29: 1}))
    narrow = draw_histogram("brightness", values_of("brightness", {15: 1}))
    assert wide.count("<title>") == 30  # 28 bins, one more on each side
    assert narrow.count("<title>") == 9  # the bin and four on each side


def test_a_bin_says_what_is_in_it():
    svg = draw_histogram("boxes_per_picture", values_of("boxes_per_picture", {4: 3, 10: 1}))
    assert "<title>5-8: train 75% (3), val 0% (0) of the pictures</title>" in svg
    assert "<title>257 or more: train 25% (1)" in svg
    svg = draw_histogram("brightness", values_of("brightness", {4: 3}, previous={4: 1}))
    assert "<title>32 to 40: train 100% (3), val 0% (0), previous 100% (1) of the" in svg


@pytest.mark.parametrize("name", CHARTS)
def test_nothing_at_all_can_be_drawn(name: str):
    svg = draw_histogram(name, values_of(name, {}, previous={}))
    assert bar_heights(svg) == []
    assert "nan" not in svg
    assert "inf" not in svg


@pytest.mark.parametrize("name", CHARTS)
def test_the_outermost_bins_lie_inside_the_drawing(name: str):
    last = len(EDGES[name]) - 2
    svg = draw_histogram(name, values_of(name, {0: 1, last: 1}))
    numbers = [float(x) for x in re.findall(r' x="([-\d.]+)"', svg)]
    assert min(numbers) >= 0
    assert max(numbers) <= 360
