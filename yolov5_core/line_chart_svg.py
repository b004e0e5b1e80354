"""Lines over epochs or nights as SVG for a page; colours come from the page's classes."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

_WIDTH, _HEIGHT = 360, 165  # units of the drawing
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 8, 10, 22  # margins for the labels
_TICKS = 6  # at most, below the axis
_MAX_POINTS = 300  # drawn; more cannot be told apart
_DOTS = 40  # up to so many, each has a dot
_HOVERS = 100  # places to point at


class Line(NamedTuple):
    """One line; its style is a class of the page."""

    style: str
    name: str
    values: Sequence[float | None]  # None: nothing is known there


@dataclass(frozen=True, kw_only=True)
class LineChart:
    """Lines over the same positions."""

    title: str
    lines: Sequence[Line]
    points: Sequence[str]  # what each position is, in full
    ticks: Sequence[str]  # and below the axis
    marked: int | None = None  # a position with a line from top to bottom
    crossed: Sequence[int] = ()  # positions where something failed
    least_span: float = 0.0  # of the axis: smaller differences stay small
    from_zero: bool = False
    ceiling: float = math.inf  # values above it are drawn at the top


def draw_lines(chart: LineChart) -> str:
    """An <svg> element; a text says so where there is nothing to draw."""
    known = [v for line in chart.lines for v in line.values if v is not None]
    if not known:
        return '<p class="pale">no values</p>'
    steps = _axis(known, chart)
    low, high = steps[0], steps[-1]
    count = len(chart.points)
    step = (_WIDTH - _LEFT - _RIGHT) / max(count - 1, 1)
    floor = _HEIGHT - _BOTTOM

    def x(position: float) -> float:
        return _LEFT + position * step if count > 1 else (_LEFT + _WIDTH - _RIGHT) / 2

    def y(value: float) -> float:
        return floor - (min(value, high) - low) / (high - low) * (floor - _TOP)

    parts = []
    for value in steps:
        text = _number(value, steps[1] - steps[0])
        parts.append(
            f'<line class="axis" x1="{_LEFT}" y1="{y(value):.1f}" x2="{_WIDTH}" '
            f'y2="{y(value):.1f}"/><text x="{_LEFT - 5}" y="{y(value) + 3.5:.1f}" '
            f'text-anchor="end">{text}</text>'
        )
    if chart.marked is not None and 0 <= chart.marked < count:
        at = f"{x(chart.marked):.1f}"
        parts.append(f'<line class="marked" x1="{at}" y1="{_TOP}" x2="{at}" y2="{floor}"/>')
    for position in chart.crossed:
        left, right = x(position) - 4, x(position) + 4
        parts.append(
            f'<path class="failed" d="M{left:.1f} {floor - 11}L{right:.1f} {floor - 3}'
            f'M{right:.1f} {floor - 11}L{left:.1f} {floor - 3}"/>'
        )
    for line in chart.lines:
        places = [(x(i), y(v)) for i, v in _thinned(line.values, chart.marked) if v is not None]
        if len(places) > 1:
            joined = "L".join(f"{px:.1f} {py:.1f}" for px, py in places)
            parts.append(f'<path class="{line.style}" d="M{joined}"/>')
        if len(places) <= _DOTS:
            parts += [
                f'<circle class="{line.style}" cx="{px:.1f}" cy="{py:.1f}" r="2.4"/>'
                for px, py in places
            ]
    parts += _ticks(chart, [x(i) for i in range(count)])
    parts += _hovers(chart, [x(i) for i in range(count)], step)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{html.escape(chart.title)}">{"".join(parts)}</svg>'
    )


def _axis(values: Sequence[float], chart: LineChart) -> list[float]:
    """Three to six round values that hold all the others between them."""
    low, high = min(values), min(max(values), chart.ceiling)
    if chart.from_zero:
        low = min(low, 0.0)
    span = max(high - low, chart.least_span, 1e-6 * max(abs(low), abs(high), 1.0))
    middle = (low + high) / 2
    if high - low < span:
        low, high = middle - span / 2, middle + span / 2
        if min(values) >= 0 and low < 0:
            low, high = 0.0, span
    rough = span / 3
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * n for n in (1, 2, 2.5, 5, 10) if size * n >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [n * step for n in range(first, max(last, first + 1) + 1)]


def _number(value: float, step: float) -> str:
    """A value with as many decimals as its steps need."""
    decimals = next((d for d in range(8) if abs(round(step, d) - step) < 1e-6 * step), 8)
    return f"{value:,.{decimals}f}"


def _thinned(values: Sequence[float | None], marked: int | None) -> list[tuple[int, float | None]]:
    """At most some hundred of the values with their positions; the ends and the mark stay."""
    count = len(values)
    if count <= _MAX_POINTS:
        return list(enumerate(values))
    kept = {round(i * (count - 1) / (_MAX_POINTS - 1)) for i in range(_MAX_POINTS)}
    if marked is not None and 0 <= marked < count:
        kept.add(marked)
    return [(i, values[i]) for i in sorted(kept)]


def _ticks(chart: LineChart, places: Sequence[float]) -> list[str]:
    count = len(places)
    every = max(1, math.ceil((count - 1) / (_TICKS - 1)))
    parts = []
    shown = list(range(0, count, every))
    if count - 1 - shown[-1] > every / 2:  # the last one too, where there is room
        shown.append(count - 1)
    for i in shown:
        anchor = "end" if i == count - 1 and count > 1 else "middle"
        place = _WIDTH if anchor == "end" else places[i]
        parts.append(
            f'<text x="{place:.1f}" y="{_HEIGHT - 6}" text-anchor="{anchor}">'
            f"{html.escape(chart.ticks[i])}</text>"
        )
    return parts


def _hovers(chart: LineChart, places: Sequence[float], step: float) -> list[str]:
    """On top, the whole height: something to point at."""
    every = max(1, math.ceil(len(places) / _HOVERS))
    width = step * every if len(places) > 1 else _WIDTH - _LEFT
    parts = []
    for i in range(0, len(places), every):
        words = [
            f"{line.name} {value:.4g}"
            for line in chart.lines
            if (value := line.values[i]) is not None
        ]
        if i in chart.crossed:
            words.append("did not complete")
        title = html.escape(f"{chart.points[i]}: {', '.join(words) or 'nothing known'}")
        parts.append(
            f'<rect class="hover" x="{places[i] - width / 2:.1f}" y="{_TOP}" '
            f'width="{width:.1f}" height="{_HEIGHT - _TOP - _BOTTOM}">'
            f"<title>{title}</title></rect>"
        )
    return parts
