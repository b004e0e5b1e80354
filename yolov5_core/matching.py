"""Which boxes of a whole set overlap: the pairs of all pictures at once, in bounded memory.

Only rows of the same group meet: of one picture, or of one picture and class. Axes: N rows on one
side, M on the other, P pairs; T IoU thresholds. Boxes are xyxy pixels, float32 throughout: an IoU
of exactly a threshold then compares as in the public program.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_PAIRS = 1 << 17  # held at once: some 10 MB; twice or half as many measured the same
_EPS = 1e-7  # as pairwise_iou


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """The rows of many pictures, one picture after the other."""

    rows: FloatArray  # (N, width)
    picture: IntArray  # (N,) ascending

    def where(self, chosen: BoolArray) -> "Stack":
        """Those rows only."""
        return Stack(self.rows[chosen], self.picture[chosen])

    def classes(self, column: int) -> IntArray:
        """(N,) of that column."""
        return self.rows[:, column].astype(np.int64)


def stack(parts: Sequence[npt.ArrayLike], width: int) -> Stack:
    """Joins what each picture has, (n, width) or empty."""
    arrays = [np.asarray(part, dtype=np.float32).reshape(-1, width) for part in parts]
    return Stack(
        np.concatenate([np.zeros((0, width), np.float32), *arrays]),
        np.repeat(np.arange(len(arrays)), [len(array) for array in arrays]),
    )


def groups_by_class(
    detections: Stack, others: Stack
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """A number for each picture and class: (N,) of xyxy, score, class and (M,) of class, xyxy."""
    classes, other_classes = detections.classes(5), others.classes(0)
    count = 1 + max(classes.max(initial=0), other_classes.max(initial=0))
    return detections.picture * count + classes, others.picture * count + other_classes


def pairs(groups: IntArray, other_groups: IntArray) -> Iterator[tuple[IntArray, IntArray]]:
    """Rows that share a group, chunk by chunk: by row of the one side, then of the other.

    Args:
        groups: (N,).
        other_groups: (M,).

    Yields:
        (P,) rows of the one, (P,) of the other. All pairs of a row are in one chunk.
    """
    order = np.argsort(other_groups, kind="stable")
    known, first, count = np.unique(other_groups[order], return_index=True, return_counts=True)
    if not len(known):
        return
    place = np.searchsorted(known, groups)
    place[place == len(known)] = 0
    rows = np.flatnonzero(known[place] == groups)
    first, count = first[place[rows]], count[place[rows]]
    ends = count.cumsum()
    start = 0
    while start < len(rows):
        full = int(np.searchsorted(ends, ends[start] - count[start] + _PAIRS, side="right"))
        chunk = slice(start, max(full, start + 1))
        start = chunk.stop
        counts = count[chunk]
        before = counts.cumsum() - counts
        along = np.arange(counts.sum()) + np.repeat(first[chunk] - before, counts)
        yield np.repeat(rows[chunk], counts), order[along]


def best_overlaps(
    boxes: FloatArray,
    groups: IntArray,
    other_boxes: FloatArray,
    other_groups: IntArray,
    least: float,
) -> tuple[IntArray, FloatArray]:
    """For each box the one of its group that it overlaps most; of equals the first.

    Args:
        boxes: (N, 4).
        groups: (N,).
        other_boxes: (M, 4).
        other_groups: (M,).
        least: Smaller IoU count for nothing; above 0.

    Returns:
        (N,) row of the other, -1 for none, and (N,) IoU, 0 for none.
    """
    best = np.full(len(boxes), -1, dtype=np.int64)
    best_iou = np.zeros(len(boxes), dtype=np.float32)
    one, other = _Columns(boxes), _Columns(other_boxes)
    for i, j in pairs(groups, other_groups):
        i, j, overlap = _intersections(one, i, other, j)  # noqa: PLW2901  fewer of them
        iou = overlap / (other.area[j] + one.area[i] - overlap + np.float32(_EPS))
        enough = iou >= least
        i, j, iou = i[enough], j[enough], iou[enough]  # noqa: PLW2901
        order = np.lexsort((-iou, i))  # stable: of equals the first
        row, at = np.unique(i[order], return_index=True)
        best[row], best_iou[row] = j[order[at]], iou[order[at]]
    return best, best_iou


def cover(
    boxes: FloatArray, groups: IntArray, other_boxes: FloatArray, other_groups: IntArray
) -> FloatArray:
    """(N,) the largest share of each box that lies in one of the others of its group, else 0."""
    share = np.zeros(len(boxes), dtype=np.float32)
    one, other = _Columns(boxes), _Columns(other_boxes)
    for i, j in pairs(groups, other_groups):
        i, _, overlap = _intersections(one, i, other, j)  # noqa: PLW2901
        np.maximum.at(share, i, overlap / (one.area[i] + np.float32(_EPS)))
    return share


def claims(best: IntArray, iou: FloatArray, thresholds: FloatArray) -> BoolArray:
    """Who gets its best label: the first of those that reach the threshold with the same one.

    Args:
        best: (N,) row of the label that each overlaps most, -1 for none.
        iou: (N,) with it.
        thresholds: (T,).

    Returns:
        (N, T).
    """
    correct = np.zeros((len(best), len(thresholds)), dtype=bool)
    hits = np.flatnonzero(best >= 0)
    hits = hits[np.argsort(best[hits], kind="stable")]  # by label, then as they come
    label, fit = best[hits], iou[hits]
    for column, threshold in enumerate(thresholds):
        reached = np.flatnonzero(fit >= threshold)
        first = np.diff(label[reached], prepend=-1) > 0
        correct[hits[reached[first]], column] = True
    return correct


class _Columns:
    """Boxes coordinate by coordinate: pairs are picked from short, dense arrays."""

    def __init__(self, boxes: FloatArray) -> None:
        self.x1, self.y1, self.x2, self.y2 = np.ascontiguousarray(boxes.T)
        self.area = (self.x2 - self.x1) * (self.y2 - self.y1)


def _intersections(
    one: _Columns, i: IntArray, other: _Columns, j: IntArray
) -> tuple[IntArray, IntArray, FloatArray]:
    """The pairs that overlap, and the areas they share; one axis at a time, for most do not."""
    width = np.minimum(one.x2[i], other.x2[j]) - np.maximum(one.x1[i], other.x1[j])
    beside = np.flatnonzero(width > 0)
    i, j, width = i[beside], j[beside], width[beside]
    height = np.minimum(one.y2[i], other.y2[j]) - np.maximum(one.y1[i], other.y1[j])
    above = np.flatnonzero(height > 0)
    return i[above], j[above], width[above] * height[above]
