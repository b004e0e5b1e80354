"""Metrics by the size of objects: small, medium and large, as COCO divides them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yolov5_core.evaluation import ImageDetections, Matches, match_images
from yolov5_core.metrics import average_precision_per_class

# Areas in square pixels of the native picture; both ends belong to the size, as in COCO.
SIZES = (("small", 0.0, 32.0**2), ("medium", 32.0**2, 96.0**2), ("large", 96.0**2, math.inf))


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeMetrics:
    """Metrics of the labels of one size; NaN where there are none."""

    size: str
    labels: int
    map50: float
    map50_95: float
    recall: float  # at IoU 0.5 above the confidence asked for, mean over the classes


def metrics_by_size(
    images: Sequence[ImageDetections], confidence: float
) -> tuple[SizeMetrics, ...]:
    """The metrics of small, medium and large objects.

    A detection that finds a label belongs to the label's size, one that finds none to its own; the
    others of the set count neither for nor against. Labels are matched once, not by size.

    Args:
        images: The set.
        confidence: Detections need more to count for the recall.
    """
    matches = match_images(images)
    label_areas, areas = _areas(matches.labels[:, 1:]), _areas(matches.detections[:, :4])
    found = []
    for size, low, high in SIZES:
        labels_in = (label_areas >= low) & (label_areas <= high)
        own_in = (areas >= low) & (areas <= high)
        found.append(_metrics(size, matches, labels_in, own_in, confidence))
    return tuple(found)


def _metrics(
    size: str, matches: Matches, labels_in: np.ndarray, own_in: np.ndarray, confidence: float
) -> SizeMetrics:
    if not labels_in.any():
        return SizeMetrics(size=size, labels=0, map50=math.nan, map50_95=math.nan, recall=math.nan)
    scores, classes = matches.detections[:, 4], matches.detections[:, 5]
    correct = matches.correct & labels_in[matches.label_of]
    here = np.where(matches.correct, correct, own_in[:, None])
    m = average_precision_per_class(
        correct, scores, classes, matches.labels[labels_in, 0], ~here | matches.in_crowd
    )
    # Counted, not read from the recall curve: that is interpolated between far confidences.
    seen = classes[correct[:, 0] & (scores > confidence)].astype(np.int64)
    counts = np.bincount(seen, minlength=m.classes.max() + 1)[m.classes]
    return SizeMetrics(
        size=size,
        labels=int(labels_in.sum()),
        map50=m.map50,
        map50_95=m.map50_95,
        recall=float((counts / m.labels_per_class).mean()),
    )


def _areas(boxes: np.ndarray) -> np.ndarray:
    sides = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64)
    return sides.prod(1)
