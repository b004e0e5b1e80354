"""YOLO label files to arrays, with every message about a bad line.

A row is `class cx cy w h` or `class x1 y1 x2 y2 x3 y3 ...`, blanks between, fractions of the image.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from yolov5_core.boxes import segments_to_boxes

NO_SEGMENT = np.zeros((0, 2), np.float32)  # the polygon of a label that has only a box
_POLYGON_POINTS = 3  # a polygon needs three points
_BOX_FIELDS = 5


class LabelError(ValueError):
    """A label file that cannot be used; the message names every bad line."""

    def __init__(self, where: str, problems: list[tuple[int, str]]) -> None:
        self.line, self.reason = problems[0]  # line counts from 1
        if len(problems) > 1:
            self.reason += f" (and {len(problems) - 1} more bad lines)"
        super().__init__(f"{where}:{self.line}: {self.reason}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ParsedLabels:
    """One label file: row i of labels belongs to segments[i]."""

    labels: np.ndarray  # (m, 5) float32: class, normalised cx, cy, w, h
    segments: tuple[np.ndarray, ...]  # m polygons (k, 2) float32, normalised; (0, 2) without one
    messages: tuple[str, ...] = ()
    duplicates: int = 0  # rows removed


def label_path(image_path: Path) -> Path:
    """Where the labels of an image are: the last `images` folder becomes `labels`, suffix .txt.

    Without such a folder they lie beside the image. A relative path that starts with `images` has
    no folder before it to look in, so callers pass absolute paths.

    Source: spec C.2.
    """
    parts = list(image_path.with_suffix(".txt").parts)
    for i in range(len(parts) - 2, 0, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts)


def parse_label_text(text: str, where: str) -> ParsedLabels:
    """Reads the rows of one label file.

    Rows of one file may be boxes and polygons in any mix. A row that occurs twice is kept once, and
    only then are the rows sorted.

    Args:
        text: Content of the file.
        where: Its name, for messages.

    Raises:
        LabelError: Wrong number of fields, text or NaN, a class that is not a whole number >= 0,
            box numbers outside [0, 1].

    Source: spec C.3.
    """
    rows: list[np.ndarray] = []
    segments: list[np.ndarray] = []
    problems: list[tuple[int, str]] = []
    lines = [(i, line.split()) for i, line in enumerate(text.splitlines(), 1)]
    has_polygons = any(len(fields) > _BOX_FIELDS + 1 for _, fields in lines)
    for number, fields in lines:
        if not fields:
            continue
        try:
            row, segment = _parse_row(fields, has_polygons)
        except ValueError as error:
            problems.append((number, str(error)))
            continue
        rows.append(row)
        segments.append(segment)
    if problems:
        raise LabelError(where, problems)
    if not rows:
        return ParsedLabels(labels=np.zeros((0, 5), np.float32), segments=())
    return _without_duplicates(np.stack(rows), segments, where)


def _parse_row(fields: list[str], has_polygons: bool) -> tuple[np.ndarray, np.ndarray]:
    try:
        numbers = np.array([float(field) for field in fields], np.float32)
    except ValueError:
        raise ValueError(f"{' '.join(fields)[:60]!r} is not numbers only") from None
    if not np.isfinite(numbers).all():
        raise ValueError(f"{' '.join(fields)[:60]!r} holds NaN or infinity")
    segment = NO_SEGMENT
    row = numbers
    if len(numbers) != _BOX_FIELDS:
        if not has_polygons:
            raise ValueError(f"{len(numbers)} fields; a box row is `class cx cy w h`, 5 fields")
        if len(numbers) % 2 == 0 or len(numbers) < 1 + 2 * _POLYGON_POINTS:
            raise ValueError(
                f"{len(numbers)} fields; a polygon row is `class x1 y1 x2 y2 x3 y3 ...`, an odd "
                f"number of fields, at least {1 + 2 * _POLYGON_POINTS}"
            )
        segment = numbers[1:].reshape(-1, 2)
        row = np.concatenate((numbers[:1], segments_to_boxes([segment])[0]))
    if row[0] < 0 or row[0] != int(row[0]):
        raise ValueError(f"class {row[0]:g}; must be a whole number, 0 or more")
    if (row[1:] < 0).any() or (row[1:] > 1).any():
        raise ValueError(
            f"box {' '.join(f'{v:g}' for v in row[1:])} (cx cy w h) leaves [0, 1]; coordinates are "
            "fractions of the image, not pixels"
        )
    return row, segment


def _without_duplicates(labels: np.ndarray, segments: list[np.ndarray], where: str) -> ParsedLabels:
    _, first = np.unique(labels, axis=0, return_index=True)
    removed = len(labels) - len(first)
    if not removed:
        return ParsedLabels(labels=labels, segments=tuple(segments))
    return ParsedLabels(
        labels=labels[first],
        segments=tuple(segments[i] for i in first),
        messages=(f"{where}: {removed} duplicate rows removed",),
        duplicates=removed,
    )
