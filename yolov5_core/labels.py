"""YOLO label files to arrays, with every message about a bad line.

A row is `class cx cy w h` or `class x1 y1 x2 y2 x3 y3 ...`, blanks between, fractions of the image.
Lines end at a line feed, a carriage return or both.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from yolov5_core.boxes import segments_to_boxes
from yolov5_core.dataset import NO_SEGMENT, NO_TRUTH, Truth
from yolov5_core.faults import Fault, FaultError
from yolov5_core.label_places import yolo_label_path
from yolov5_core.limits import MAX_LABEL_BYTES, MAX_LABEL_LINE, MAX_LABEL_ROWS

_POLYGON_POINTS = 3  # a polygon needs three points
_BOX_FIELDS = 5
_LISTED = 10  # lines named in one fault
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Rows are judged as the float32 numbers they become.
_TINY = float(np.finfo(np.float32).tiny)  # what is smaller may become 0
_ONE = 1 + 2**-24  # what is not larger becomes 1 or less
_INFINITE = 2.0**128 - 2.0**103  # what is not smaller becomes infinite


def label_path(image_path: Path) -> Path:
    """Where the labels of an image are: the last `images` folder becomes `labels`, suffix .txt.

    Without such a folder they lie beside the image. A relative path that starts with `images` has
    no folder before it to look in, so callers pass absolute paths.

    Source: spec C.2.
    """
    return Path(yolo_label_path(image_path.as_posix()))


def parse_labels(data: bytes, where: str, num_classes: int) -> Truth:
    """Reads the rows of one label file.

    Rows of one file may be boxes and polygons in any mix. A row without width or height is left
    out. A row that occurs twice is kept once, and only then are the rows sorted.

    Args:
        data: Content of the file.
        where: Its name, for messages.
        num_classes: Classes of the data set.

    Raises:
        FaultError: Too large, no text, wrong number of fields, text or NaN, a class that is not a
            whole number from 0 to num_classes - 1, box numbers outside [0, 1]; names the first bad
            line. A polygon is judged by its box, so its points may leave the image as a box may.

    Source: spec C.3; boxes without area are ours, they cannot be learned.
    """
    truth = plain_boxes(data, num_classes)
    return parse_any_rows(data, where, num_classes) if truth is None else truth


def plain_boxes(data: bytes, num_classes: int) -> Truth | None:
    """What parse_any_rows returns for a file of nothing but good, different box rows; else None.

    It exists for speed: nearly every label file is like that, and there are as many as pictures.
    """
    if (
        len(data) > MAX_LABEL_BYTES
        or data.count(b"\n") > MAX_LABEL_ROWS
        or b"_" in data
        or b"-" in data
        or not data.isascii()
    ):
        return None
    rows: list[tuple[float, ...]] = []
    try:
        for line in data.splitlines():
            fields = line.split()
            if not fields:
                continue
            c, x, y, w, h = row = (*map(float, fields),)
            in_range = x <= 1 and y <= 1 and _TINY < w <= 1 and _TINY < h <= 1
            if not (in_range and c < num_classes and c.is_integer()):
                return None
            rows.append(row)
    except ValueError:  # not five fields, or no number
        return None
    if not rows:
        return NO_TRUTH
    labels = np.array(rows, np.float32)
    if len(rows) > 1 and len(set(map(tuple, labels.tolist()))) < len(rows):
        return None
    return Truth(labels=labels, segments=(NO_SEGMENT,) * len(rows))


def parse_any_rows(data: bytes, where: str, num_classes: int) -> Truth:
    """See parse_labels."""
    if len(data) > MAX_LABEL_BYTES:
        reason = f"{len(data)} bytes; a label file has at most {MAX_LABEL_BYTES}"
        raise FaultError("label-too-large", where, reason)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FaultError("label-not-text", where, f"cannot be read as text: {error}") from error
    lines = data.removeprefix(_BYTE_ORDER_MARK).splitlines()
    longest = max(map(len, lines), default=0)
    if len(lines) > MAX_LABEL_ROWS or longest > MAX_LABEL_LINE:
        reason = (
            f"{len(lines)} lines, the longest of {longest} bytes; a label file has at most "
            f"{MAX_LABEL_ROWS} lines of {MAX_LABEL_LINE} bytes"
        )
        raise FaultError("label-too-large", where, reason)
    rows = [(number, line.split()) for number, line in enumerate(lines, 1)]
    has_polygons = any(len(fields) > _BOX_FIELDS + 1 for _, fields in rows)
    found: list[_Row] = []
    problems: list[tuple[int, _RowError]] = []
    for number, fields in rows:
        if not fields:
            continue
        try:
            found.append(_Row(number, *_parse_row(fields, has_polygons, num_classes)))
        except _RowError as error:
            problems.append((number, error))
    if problems:
        number, first = problems[0]
        more = f" (and {len(problems) - 1} more bad lines)" if len(problems) > 1 else ""
        raise FaultError(first.kind, f"{where}:{number}", str(first) + more)
    return _without_useless_rows(found, where) if found else NO_TRUTH


class _Row(NamedTuple):
    line: int
    label: Sequence[float]  # class, cx, cy, w, h
    segment: np.ndarray  # (k, 2) float32


class _RowError(ValueError):
    def __init__(self, kind: str, reason: str) -> None:
        self.kind = kind
        super().__init__(reason)


def _parse_row(
    fields: list[bytes], has_polygons: bool, num_classes: int
) -> tuple[Sequence[float], np.ndarray]:
    row = numbers = _numbers(fields)
    segment = NO_SEGMENT
    if len(fields) != _BOX_FIELDS:
        if not has_polygons:
            reason = f"{len(fields)} fields; a box row is `class cx cy w h`, 5 fields"
            raise _RowError("label-fields", reason)
        if len(fields) % 2 == 0 or len(fields) < 1 + 2 * _POLYGON_POINTS:
            raise _RowError(
                "label-polygon",
                f"{len(fields)} fields; a polygon row is `class x1 y1 x2 y2 x3 y3 ...`, an odd "
                f"number of fields, at least {1 + 2 * _POLYGON_POINTS}",
            )
        segment = np.array(numbers[1:]).astype(np.float32).reshape(-1, 2)
        with np.errstate(over="ignore"):  # then it lies outside anyway
            row = [numbers[0], *segments_to_boxes([segment])[0].tolist()]
    if row[0] < 0 or not row[0].is_integer():
        raise _RowError("label-class", f"class {row[0]:g}; must be a whole number, 0 or more")
    if row[0] >= num_classes:
        reason = f"class {row[0]:g} of {num_classes} classes (0 to {num_classes - 1})"
        raise _RowError("label-class-unknown", reason)
    if not (min(row[1:]) >= 0 and max(row[1:]) <= _ONE):
        raise _RowError(
            "label-outside",
            f"box {' '.join(f'{v:g}' for v in row[1:])} (cx cy w h) leaves [0, 1]; coordinates are "
            "fractions of the image, not pixels",
        )
    return row, segment


def _numbers(fields: list[bytes]) -> list[float]:
    try:
        numbers = [*map(float, fields)]
    except ValueError:
        numbers = []
    # 1_0 is a number to Python alone
    if not numbers or any(b"_" in field for field in fields):
        raise _RowError("label-not-a-number", f"{_shown(fields)} is not numbers only")
    if not all(-_INFINITE < number < _INFINITE for number in numbers):
        raise _RowError("label-not-finite", f"{_shown(fields)} holds NaN or infinity")
    return numbers


def _shown(fields: list[bytes]) -> str:
    return repr(b" ".join(fields)[:60].decode("utf-8", "replace"))


def _without_useless_rows(rows: list[_Row], where: str) -> Truth:
    """Leaves out boxes without area, then what occurs twice."""
    labels = np.array([row.label for row in rows]).astype(np.float32) + np.float32(0)  # no -0
    lines = np.array([row.line for row in rows])
    faults = []
    has_area = labels[:, 3:].all(1)
    if not has_area.all():
        faults.append(_fault("label-no-area", where, lines[~has_area], "without area left out"))
    kept = np.flatnonzero(has_area)
    order = kept[np.lexsort(labels[kept].T[::-1])]  # stable: of equal rows the first comes first
    is_new = np.ones(len(order), bool)
    is_new[1:] = (labels[order[1:]] != labels[order[:-1]]).any(1)
    if not is_new.all():
        again = np.sort(lines[order[~is_new]])
        faults.append(_fault("label-duplicate", where, again, "removed", "duplicate "))
        kept = order[is_new]  # sorted
    segments = tuple(rows[i].segment for i in kept)
    return Truth(labels=labels[kept], segments=segments, faults=tuple(faults))


def _fault(kind: str, where: str, lines: np.ndarray, done: str, which: str = "") -> Fault:
    listed = ""
    if len(lines) > 1:
        more = ", ..." if len(lines) > _LISTED else ""
        listed = f" (lines {', '.join(map(str, lines[:_LISTED]))}{more})"
    reason = f"{len(lines)} {which}rows {done}{listed}"
    return Fault(kind=kind, image="", where=f"{where}:{lines[0]}", reason=reason)
