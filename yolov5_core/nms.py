"""Non-maximum suppression: decoded predictions of the network to detections.

Axes: B images, N predictions of an image, n detections kept. Rows of a prediction are
cx, cy, w, h in pixels, objectness, then one probability per class.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

_FIRST_ROWS = 1024  # predictions looked at first: nearly always enough for max_detections
# Boxes compared at once: large enough to amortise a NumPy call, small enough that the temporaries
# of 64 x 512 pairs stay in the processor's cache.
_WINDOW = 512
_BLOCK = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class NmsConfig:
    """What survives suppression.

    Source: spec E.2; defaults are those of detection.
    """

    confidence: float = 0.25  # score and objectness must be larger
    iou: float = 0.45  # a box is removed when its IoU with a kept one is larger
    multi_label: bool = False  # every class above confidence, not only the best one
    agnostic: bool = False  # boxes of different classes suppress each other too
    classes: tuple[int, ...] | None = None  # None: all classes
    max_detections: int = 300  # per image
    max_candidates: int = 30_000  # per image, before suppression

    def __post_init__(self) -> None:
        """Refuses thresholds outside [0, 1] and limits below 1."""
        for name in ("confidence", "iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"NmsConfig.{name}={getattr(self, name)}: must be within [0, 1]")
        for name in ("max_detections", "max_candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"NmsConfig.{name}={getattr(self, name)}: must be at least 1")


def non_max_suppression(
    predictions: Tensor, config: NmsConfig, apriori_labels: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """Keeps the best box of every object, image by image.

    Greedy in order of score; equal scores keep the order of the candidates (row, then class).
    Classes are compared, not moved apart by a coordinate offset, which would cost small boxes
    their float32 precision. There is no time limit. Rows with anything that is not a number, or
    with an infinite box, are dropped. Candidates are drawn best first as long as they are needed.

    Args:
        predictions: (B, N, 5 + C) decoded, cxcywh pixels, any float dtype, any device.
        config: thresholds and limits.
        apriori_labels: per image (m, 5) class, cxcywh pixels: boxes known beforehand, which join
            the candidates with score 1; None for none.

    Returns:
        Per image (n, 6) float32: xyxy pixels (unclipped), score, class; best score first.

    Source: spec E.2, fixes of H.3.
    """
    outputs = []
    suppression = Suppression(config)
    for index, image_predictions in enumerate(predictions):
        rows = image_predictions.float()
        if apriori_labels is not None and len(apriori_labels[index]):
            rows = torch.cat([rows, _apriori_rows(apriori_labels[index], rows)])
        # The suppression is sequential: on a GPU it would wait for the device at every step.
        parts = (candidates.cpu().numpy() for candidates in best_first(rows, config))
        outputs.append(torch.from_numpy(suppression.keep(parts)).to(predictions.device))
    return outputs


def _apriori_rows(labels: Tensor, like: Tensor) -> Tensor:
    """Prediction rows with objectness 1 and a one-hot class."""
    rows = like.new_zeros(len(labels), like.shape[1])
    rows[:, :4] = labels[:, 1:5]
    rows[:, 4] = 1
    rows[torch.arange(len(labels)), 5 + labels[:, 0].long()] = 1
    return rows


def best_first(rows: Tensor, config: NmsConfig) -> Iterator[Tensor]:
    """The candidates of an image in up to two parts, better ones first.

    A row cannot hold a better candidate than its best class, so the first part, all candidates
    from some score on, is found without a look at the classes of most rows.
    """
    best = rows[:, 5:].amax(1) * rows[:, 4]
    chosen = ((rows[:, 4] > config.confidence) & (best > config.confidence)).nonzero()[:, 0]
    chosen = chosen[rows[chosen, :4].isfinite().all(1)]
    best = best[chosen]
    if len(chosen) <= _FIRST_ROWS:
        yield _candidates(rows[chosen], config, 0, math.inf, config.max_candidates)
        return
    bound = _largest(best, _FIRST_ROWS)
    first = _candidates(rows[chosen[best >= bound]], config, bound, math.inf, config.max_candidates)
    yield first
    if len(first) < config.max_candidates:
        limit = config.max_candidates - len(first)
        yield _candidates(rows[chosen], config, 0, bound, limit)


def _largest(values: Tensor, k: int) -> float:
    """The k-th largest."""
    if values.device.type == "cpu":  # a tenth of the time of kthvalue
        return float(np.partition(values.numpy(), len(values) - k)[len(values) - k])
    return float(values.kthvalue(len(values) - k + 1).values)


def _candidates(rows: Tensor, config: NmsConfig, low: float, high: float, limit: int) -> Tensor:
    """(n, 6) xyxy, score in [low, high), class; best first, at most limit."""
    scores = rows[:, 5:] * rows[:, 4:5]  # (N, C)
    if config.multi_label and scores.shape[1] > 1:
        classes = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    else:
        scores, classes = scores.max(1, keepdim=True)  # (N, 1)
    allowed = (scores > config.confidence) & (scores >= low) & (scores < high)
    if config.classes is not None:
        allowed &= torch.isin(classes, torch.tensor(config.classes, device=classes.device))
    row, column = allowed.nonzero(as_tuple=True)
    score = scores[row, column]
    if len(score) > limit:  # cheaper than sorting all of them
        most = score >= _largest(score, limit)
        row, column, score = row[most], column[most], score[most]
    order = score.argsort(descending=True, stable=True)[:limit]
    row, column = row[order], column[order]
    boxes = rows[row, :4]
    half = boxes[:, 2:] / 2
    corners = (boxes[:, :2] - half, boxes[:, :2] + half)
    cls = classes[row, column, None].to(score.dtype)
    return torch.cat([*corners, score[order, None], cls], 1)


class Suppression:
    """Greedy suppression, best first; holds the memory that the comparisons need.

    Boxes are (7, n) columns: x1, y1, x2, y2, score, class, area. A window is first cleared of what
    the boxes kept so far suppress; then block by block the best of it are resolved among themselves
    and clear the rest. So a box is compared with few after the one that suppresses it, and those
    behind the one that fills max_detections are never looked at.
    """

    def __init__(self, config: NmsConfig) -> None:
        self._config = config
        self._numbers = np.empty((3, _BLOCK * _WINDOW), np.float32)
        self._flags = np.empty((2, _BLOCK * _WINDOW), bool)
        self._later = np.triu(np.ones((_BLOCK, _BLOCK), bool), 1)

    def keep(self, parts: Iterable[FloatArray]) -> FloatArray:
        """The kept of candidates (n, 6) xyxy, score, class, which come best first."""
        most = self._config.max_detections
        kept = np.empty((7, 0), np.float32)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            for window in _windows(parts):
                left = window
                for start in range(0, kept.shape[1], _BLOCK):
                    left = self._cleared(left, kept[:, start : start + _BLOCK])
                while left.shape[1] and kept.shape[1] < most:
                    block = self._resolved(left[:, :_BLOCK])
                    left = self._cleared(left[:, _BLOCK:], block)
                    kept = np.concatenate((kept, block), 1)
                if kept.shape[1] >= most:
                    break
        return kept[:6, :most].T.copy()

    def _cleared(self, boxes: FloatArray, by: FloatArray) -> FloatArray:
        """Those that none of the others suppresses."""
        return boxes.compress(~self._overlap(by, boxes).any(0), axis=1)

    def _resolved(self, boxes: FloatArray) -> FloatArray:
        """A block without what better ones in it suppress."""
        count = boxes.shape[1]
        overlap = self._overlap(boxes, boxes) & self._later[:count, :count]
        keep = ~overlap.any(0)
        # What a removed box suppresses comes back, until nothing changes: then every box is kept
        # just if no kept one suppresses it, which only the greedy choice fulfils.
        while True:
            again = ~overlap[keep].any(0)
            if (again == keep).all():
                return boxes[:, keep]
            keep = again

    def _overlap(self, a: FloatArray, b: FloatArray) -> BoolArray:
        """(N, M) whether the classes are equal and the IoU (without eps) is above the threshold.

        The division makes an IoU of exactly the threshold compare equal to it; boxes without area
        give 0/0, which is not larger than anything.
        """
        shape = (a.shape[1], b.shape[1])
        width, height, union = (row[: shape[0] * shape[1]].reshape(shape) for row in self._numbers)
        larger, overlapping = (row[: shape[0] * shape[1]].reshape(shape) for row in self._flags)
        ax1, ay1, ax2, ay2, _, a_class, a_area = a[:, :, None]
        bx1, by1, bx2, by2, _, b_class, b_area = b
        np.minimum(ax2, bx2, out=width)
        width -= np.maximum(ax1, bx1, out=union)
        np.minimum(ay2, by2, out=height)
        height -= np.maximum(ay1, by1, out=union)
        np.greater(width, 0, out=overlapping)  # five times as fast as to clip width and height
        inter = np.multiply(width, height, out=height)
        np.add(a_area, b_area, out=union)
        union -= inter
        inter /= union
        np.greater(inter, self._config.iou, out=larger)
        larger &= overlapping
        if not self._config.agnostic:
            larger &= np.equal(a_class, b_class, out=overlapping)
        return larger


def _windows(parts: Iterable[FloatArray]) -> Iterator[FloatArray]:
    """(7, up to _WINDOW) columns of candidates."""
    for candidates in parts:
        for start in range(0, len(candidates), _WINDOW):
            rows = candidates[start : start + _WINDOW]
            x1, y1, x2, y2 = rows[:, :4].T
            yield np.concatenate((rows.T, [(x2 - x1) * (y2 - y1)]))
