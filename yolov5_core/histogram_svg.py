"""Histograms of a data report as SVG for a page: bars for training, lines for the other sets."""

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from yolov5_core.drift import percent
from yolov5_core.histograms import EDGES

_WIDTH, _HEIGHT = 360, 150  # units of the drawing
_LEFT, _TOP, _BOTTOM = 34, 10, 20  # margins for the labels
_TICKS = 6  # at most, below the axis
_OTHERS = ("val", "previous")  # drawn as lines, in this order


class Chart(NamedTuple):
    """What a histogram is called and how its edges read."""

    title: str
    unit: str  # what is counted
    tick: Callable[[float], str]


CHARTS: dict[str, Chart] = {
    "box_size": Chart("Box size: root of the share of the area", "boxes", percent),
    "box_aspect": Chart("Box width / height", "boxes", lambda v: f"{v:.2g}"),
    "boxes_per_picture": Chart("Boxes per picture", "pictures", lambda v: f"{v:.0f}"),
    "brightness": Chart("Brightness of pictures, 0 to 255", "pictures", lambda v: f"{v:.0f}"),
    "image_size": Chart("Longer side of pictures, pixels", "pictures", lambda v: f"{v:.0f}"),
}


def draw_histogram(name: str, values: Mapping[str, Any]) -> str:
    """One histogram in shares of its set, so that sets of different size can be compared.

    Args:
        name: Key of CHARTS.
        values: Its part of a data report: edges, train, val, previous.

    Returns:
        An <svg> element; colours come from the page's classes train, val, previous.
    """
    chart, edges = CHARTS[name], values["edges"]
    series = {s: np.array(values[s], np.float64) for s in ("train", *_OTHERS) if values[s]}
    first, behind = _filled(np.sum(list(series.values()), axis=0))
    shares = {s: (v / max(v.sum(), 1))[first:behind] for s, v in series.items()}
    top = max(float(v.max()) for v in shares.values()) or 1.0
    step = (_WIDTH - _LEFT) / (behind - first)
    floor, highest = _HEIGHT - _BOTTOM, html.escape(percent(top))
    scale = (floor - _TOP) / top
    parts = [
        f'<line class="axis" x1="{_LEFT}" y1="{floor}" x2="{_WIDTH}" y2="{floor}"/>',
        f'<text x="{_LEFT - 4}" y="{_TOP + 4}" text-anchor="end">{highest}</text>',
        f'<text x="{_LEFT - 4}" y="{floor}" text-anchor="end">0</text>',
    ]
    for i, share in enumerate(shares["train"].tolist()):
        x, height = _LEFT + i * step, share * scale
        parts.append(
            f'<rect class="train" x="{x + step * 0.06:.1f}" y="{floor - height:.1f}" '
            f'width="{step * 0.88:.1f}" height="{height:.1f}"/>'
        )
    parts += [
        f'<path class="{s}" d="{_outline(shares[s] * scale, step, floor)}"/>'
        for s in _OTHERS
        if s in shares and shares[s].any()
    ]
    parts += _ticks(chart, name, edges[first : behind + 1], step)
    for i in range(behind - first):  # on top, the whole height: something to point at
        words = [
            f"{s} {percent(float(v[i]))} ({series[s][first + i]:,.0f})" for s, v in shares.items()
        ]
        reach = _reach(chart, name, edges, first + i)
        title = html.escape(f"{reach}: {', '.join(words)} of the {chart.unit}")
        parts.append(
            f'<rect class="hover" x="{_LEFT + i * step:.1f}" y="{_TOP}" width="{step:.1f}" '
            f'height="{floor - _TOP}"><title>{title}</title></rect>'
        )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{chart.title}">'
        f"{''.join(parts)}</svg>"
    )


def _filled(counts: np.ndarray) -> tuple[int, int]:
    """First bin and the one behind the last to show: those with something, and a few around."""
    used = np.flatnonzero(counts)
    if not len(used):
        return 0, len(counts)
    first, last = int(used[0]), int(used[-1])
    margin = max(1, (8 - (last - first)) // 2)  # a single value is no wall of colour
    return max(first - margin, 0), min(last + margin + 1, len(counts))


def _outline(heights: np.ndarray, step: float, floor: float) -> str:
    """A line along the tops of the bars that would be there."""
    points = []
    for i, height in enumerate(heights.tolist()):
        left, right = _LEFT + i * step, _LEFT + (i + 1) * step
        points += [f"{left:.1f} {floor - height:.1f}", f"{right:.1f} {floor - height:.1f}"]
    return "M" + "L".join(points)


def _ticks(chart: Chart, name: str, edges: Sequence[float], step: float) -> list[str]:
    """Edges by their value, or bins of whole numbers by what falls into them."""
    is_counted = name == "boxes_per_picture"
    every = max(1, -(-(len(edges) - 1) // _TICKS))
    ticks = []
    for i in range(0, len(edges) - is_counted, every):
        x = _LEFT + (i + is_counted / 2) * step
        anchor = "end" if i == len(edges) - 1 else "middle"
        text = _reach(chart, name, edges, i) if is_counted else chart.tick(edges[i])
        ticks.append(
            f'<text x="{x:.1f}" y="{_HEIGHT - 6}" text-anchor="{anchor}">{html.escape(text)}</text>'
        )
    return ticks


def _reach(chart: Chart, name: str, edges: Sequence[float], i: int) -> str:
    """What falls into a bin."""
    low, high = chart.tick(edges[i]), chart.tick(edges[i + 1])
    if name != "boxes_per_picture":
        return f"{low} to {high}"
    if edges[i + 1] == EDGES[name][-1]:
        return f"{low} or more"
    return low if edges[i + 1] - edges[i] == 1 else f"{low}-{edges[i + 1] - 1:.0f}"
