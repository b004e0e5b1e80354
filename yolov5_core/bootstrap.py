"""Is one model better than another on the same pictures, or is it chance? A paired bootstrap.

The pictures are drawn anew, with replacement, many times; each time both models are measured on the
same draw. Matching happens once: a draw only gives every picture a weight, and average precision is
taken over weighted detections.

Source: Efron, Tibshirani, An Introduction to the Bootstrap (1993), chapters 13 and 16.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from yolov5_core.evaluation import ImageDetections, match_images
from yolov5_core.metrics import IOU_THRESHOLDS
from yolov5_core.randomness import generator

FloatArray = npt.NDArray[np.float64]

DRAWS = 1000
_MOST_WORK = 4e8  # detections times draws: about ten seconds a model
_CHUNK = 4e6  # numbers held at once
_GRID = np.linspace(0, 1, 101)  # recalls, as in metrics
_EPS = 1e-16


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Comparison:
    """Challenger against champion; k classes that occur in the labels, B draws.

    Fitness is 0.1 mAP50 + 0.9 mAP50-95; the AP of a class is its mean over the ten thresholds.
    """

    classes: npt.NDArray[np.int64]  # (k,)
    labels_per_class: npt.NDArray[np.int64]  # (k,)
    images: int
    champion: FloatArray  # (k, 10) AP on the whole set
    challenger: FloatArray  # (k, 10)
    gains: FloatArray  # (B,) of fitness
    class_gains: FloatArray  # (B, k) of AP; NaN where a draw has no label of the class

    @property
    def gain(self) -> float:
        """Of fitness, on the whole set."""
        return float(fitness(self.challenger) - fitness(self.champion))

    def interval(self, share: float = 0.9) -> tuple[float, float]:
        """The middle share of the gains: above its lower end lie 95 % of them by default."""
        low, high = np.quantile(self.gains, [(1 - share) / 2, (1 + share) / 2])
        return float(low), float(high)

    @property
    def chance_of_better(self) -> float:
        """Share of the draws in which the challenger is ahead."""
        return float((self.gains > 0).mean())


def compare(
    champion: Sequence[ImageDetections],
    challenger: Sequence[ImageDetections],
    seed: int,
    draws: int = DRAWS,
) -> Comparison:
    """Measures two models on the same draws of the same pictures.

    Args:
        champion: What one found, with the labels.
        challenger: What the other found; same pictures in the same order, same labels.
        seed: Of the draws: same seed, same result.
        draws: How many, at most; huge sets get fewer, 100 at least.

    Raises:
        ValueError: Other pictures or labels.
    """
    ours, theirs = _Measured(champion), _Measured(challenger)
    if not _same_pictures(champion, challenger):
        raise ValueError("the two models were not measured on the same pictures and labels")
    most = max(len(ours.image), len(theirs.image), 1)
    draws = min(draws, max(100, int(_MOST_WORK / (10 * most))))
    count, gains, class_gains = len(champion), [], []
    chunk = max(1, int(_CHUNK / (10 * most)))
    for first in range(0, draws, chunk):
        numbers = range(first, min(first + chunk, draws))
        weights = np.stack([_draw(seed, number, count) for number in numbers])
        before, after = ours.average_precision(weights), theirs.average_precision(weights)
        gains.append(fitness(after) - fitness(before))
        class_gains.append((after - before).mean(2))
    whole = np.ones((1, count))
    return Comparison(
        classes=ours.classes,
        labels_per_class=ours.labels_per_class,
        images=count,
        champion=ours.average_precision(whole)[0],
        challenger=theirs.average_precision(whole)[0],
        gains=np.concatenate(gains),
        class_gains=np.concatenate(class_gains),
    )


def fitness(ap: FloatArray) -> FloatArray:
    """(...) fitness of (..., k, 10) AP; classes without labels are NaN and left out."""
    known = ~np.isnan(ap[..., 0])
    count = np.maximum(known.sum(-1), 1)
    filled = np.where(known[..., None], ap, 0.0)
    map50, map50_95 = filled[..., 0].sum(-1) / count, filled.mean(-1).sum(-1) / count
    result: FloatArray = 0.1 * map50 + 0.9 * map50_95
    return result


def _draw(seed: int, number: int, count: int) -> npt.NDArray[np.int64]:
    """(count,) how often a draw has each picture."""
    chosen = generator(seed, "bootstrap", number).integers(count, size=count)
    return np.bincount(chosen, minlength=count)


def _same_pictures(first: Sequence[ImageDetections], second: Sequence[ImageDetections]) -> bool:
    return len(first) == len(second) and all(
        a.index == b.index and np.array_equal(a.labels, b.labels)
        for a, b in zip(first, second, strict=True)
    )


class _Measured:
    """The detections of a model, best first, with the picture each is from."""

    def __init__(self, images: Sequence[ImageDetections]) -> None:
        found = match_images(images)
        owner = np.repeat(np.arange(len(images)), [len(i.detections) for i in images])
        label_owner = np.repeat(np.arange(len(images)), [len(i.labels) for i in images])
        order = np.argsort(-found.detections[:, 4].astype(np.float64), kind="stable")
        self.image = owner[order]
        self.correct = found.correct[order]
        self.counted = ~found.in_crowd[order]
        self.predicted = found.detections[order, 5].astype(np.int64)
        targets = found.labels[:, 0].astype(np.int64)
        self.classes, self.labels_per_class = np.unique(targets, return_counts=True)
        self.labels = np.stack(  # (k, images)
            [np.bincount(label_owner[targets == c], minlength=len(images)) for c in self.classes]
        ) if len(self.classes) else np.zeros((0, len(images)), np.int64)  # fmt: skip

    def average_precision(self, weights: FloatArray | npt.NDArray[np.int64]) -> FloatArray:
        """(B, k, 10) AP for (B, images) weights; NaN where no label of a class has a weight."""
        result = np.full((len(weights), len(self.classes), len(IOU_THRESHOLDS)), np.nan)
        for row, cls in enumerate(self.classes):
            count = weights @ self.labels[row]  # (B,)
            mine = self.predicted == cls
            drawn = weights[:, self.image[mine]]
            ap = _areas(drawn, self.correct[mine], self.counted[mine], count)
            ap[drawn @ self.counted[mine] == 0] = 0.0  # nothing found at all
            result[:, row] = np.where(count[:, None] > 0, ap, np.nan)
        return result


def _areas(
    weights: FloatArray | npt.NDArray[np.int64],
    correct: npt.NDArray[np.bool_],
    counted: npt.NDArray[np.bool_],
    labels: FloatArray,
) -> FloatArray:
    """(B, 10) areas under precision and recall, as metrics takes them, for many weights at once.

    Args:
        weights: (B, n) of each detection, best first.
        correct: (n, 10).
        counted: (n, 10).
        labels: (B,) weight of all labels.
    """
    found = np.cumsum(weights[:, None, :] * correct.T, axis=2, dtype=np.float64)  # (B, 10, n)
    shown = np.cumsum(weights[:, None, :] * counted.T, axis=2, dtype=np.float64)
    recall = found / (labels[:, None, None] + _EPS)
    precision = np.where(shown > 0, found / np.maximum(shown, 1), 1.0)
    draws, columns = recall.shape[:2]
    ends = np.ones((draws, columns, 1))
    recall = np.concatenate((0 * ends, recall, ends), axis=2)
    precision = np.concatenate((ends, precision, 0 * ends), axis=2)
    precision = np.maximum.accumulate(precision[:, :, ::-1], axis=2)[:, :, ::-1]
    # Curve by curve on a line of its own, two apart, so that one call interpolates all of them.
    line = 2.0 * np.arange(draws * columns)[:, None]
    along = recall.reshape(draws * columns, -1) + line
    heights = np.interp((_GRID + line).ravel(), along.ravel(), precision.ravel())
    return np.asarray(np.trapezoid(heights.reshape(draws, columns, -1), _GRID, axis=2))
