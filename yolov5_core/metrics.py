"""Detection metrics: matching, average precision, confusion matrix and their text table.

Axes: N detections, M labels, K crowd regions, k classes that occur in the labels, 10 IoU
thresholds, 1000 points of a curve. Detections are rows xyxy, score, class; labels and crowd regions
are rows class, xyxy; all in pixels of the same space (the native image).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from yolov5_core.matching import Stack, best_overlaps, claims, cover, groups_by_class, stack

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10).astype(np.float32)  # float32 as the boxes' IoU
CURVE = np.linspace(0, 1, 1000)  # confidences, or recalls of pr_curve
_SMOOTHING = 101  # points of the box filter over the mean F1: a tenth of CURVE to either side
_GRID = np.linspace(0, 1, 101)  # recalls under which the area is taken
_EPS = 1e-16


def match(detections: npt.ArrayLike, labels: npt.ArrayLike) -> BoolArray:
    """Tells which detections of one image are correct at each IoU threshold.

    Args:
        detections: (N, 6) xyxy, score, class.
        labels: (M, 5) class, xyxy.

    Returns:
        (N, 10) bool, columns as IOU_THRESHOLDS.
    """
    return found_labels(detections, labels) >= 0


def found_labels(detections: npt.ArrayLike, labels: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Tells which label each detection of one image finds at each IoU threshold.

    A detection claims the label of its class it overlaps most; a label claimed by several goes to
    the first of them, so to the best score when detections come in order of score.

    Args:
        detections: (N, 6) xyxy, score, class.
        labels: (M, 5) class, xyxy.

    Returns:
        (N, 10) row of the label, -1 for none; columns as IOU_THRESHOLDS.

    Source: spec E.3, v7.
    """
    best, correct = best_labels(stack([detections], 6), stack([labels], 5))
    return np.where(correct, best[:, None], -1)


def best_labels(detections: Stack, labels: Stack) -> tuple[npt.NDArray[np.int64], BoolArray]:
    """What found_labels tells, for many images at once.

    Returns:
        (N,) row of the label each overlaps most, -1 for none at any threshold, and (N, 10) whether
        it finds it; columns as IOU_THRESHOLDS.
    """
    groups, label_groups = groups_by_class(detections, labels)
    best, iou = best_overlaps(
        detections.rows[:, :4], groups, labels.rows[:, 1:], label_groups, float(IOU_THRESHOLDS[0])
    )
    return best, claims(best, iou, IOU_THRESHOLDS)


def crowd_cover(detections: npt.ArrayLike, crowd: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """The largest share of each detection that lies in one crowd region of its class.

    A crowd region stands for objects nobody counted, so what is found inside is not known to be
    wrong: a detection that finds no label, with a share of at least the IoU threshold, counts
    neither for nor against.

    Args:
        detections: (N, 6) xyxy, score, class.
        crowd: (K, 5) class, xyxy.

    Returns:
        (N,) in [0, 1]; 0 without such a region.

    Source: pycocotools 2.0.11, which compares that share where it compares an IoU otherwise.
    """
    return crowd_covers(stack([detections], 6), stack([crowd], 5))


def crowd_covers(detections: Stack, crowd: Stack) -> npt.NDArray[np.float32]:
    """What crowd_cover tells, for many images at once."""
    groups, crowd_groups = groups_by_class(detections, crowd)
    return cover(detections.rows[:, :4], groups, crowd.rows[:, 1:], crowd_groups)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DetectionMetrics:
    """Metrics per class that occurs in the labels; never NaN.

    The single precision, recall and F1 of a class are those at one confidence for all classes:
    where the mean F1, smoothed, is largest.
    """

    classes: npt.NDArray[np.int64]  # (k,) ascending
    labels_per_class: npt.NDArray[np.int64]  # (k,)
    tp: FloatArray  # (k,) whole numbers
    fp: FloatArray  # (k,)
    precision: FloatArray  # (k,)
    recall: FloatArray  # (k,)
    f1: FloatArray  # (k,)
    ap: FloatArray  # (k, 10) by IOU_THRESHOLDS
    confidence: FloatArray  # (1000,) where the next three were sampled
    precision_curve: FloatArray  # (k, 1000)
    recall_curve: FloatArray  # (k, 1000)
    f1_curve: FloatArray  # (k, 1000)
    pr_curve: FloatArray  # (k, 1000) precision at IoU 0.5 over the recalls CURVE

    @property
    def ap50(self) -> FloatArray:
        """(k,) average precision at IoU 0.5."""
        return self.ap[:, 0]

    @property
    def mean_precision(self) -> float:
        """Mean over the classes, 0 without classes."""
        return _mean(self.precision)

    @property
    def mean_recall(self) -> float:
        """Mean over the classes, 0 without classes."""
        return _mean(self.recall)

    @property
    def map50(self) -> float:
        """Mean average precision at IoU 0.5."""
        return _mean(self.ap50)

    @property
    def map50_95(self) -> float:
        """Mean average precision over the ten IoU thresholds."""
        return _mean(self.ap)

    @property
    def best_confidence(self) -> float:
        """Where the mean F1, smoothed, is largest: precision, recall and F1 are taken there."""
        return float(self.confidence[_best_point(self.f1_curve)])

    @property
    def fitness(self) -> float:
        """What "best" means: 0.1 mAP50 + 0.9 mAP50-95."""
        return 0.1 * self.map50 + 0.9 * self.map50_95

    def maps(self, num_classes: int) -> FloatArray:
        """(num_classes,) AP50-95 of the classes seen, the mean for the others."""
        values = np.full(num_classes, self.map50_95)
        values[self.classes] = self.ap.mean(1)
        return values


def average_precision_per_class(
    correct: BoolArray,
    scores: npt.ArrayLike,
    predicted_classes: npt.ArrayLike,
    target_classes: npt.ArrayLike,
    ignored: BoolArray | None = None,
) -> DetectionMetrics:
    """Computes the metrics of a whole data set from matched detections.

    Args:
        correct: (N, 10) bool from match, all images concatenated.
        scores: (N,) in [0, 1].
        predicted_classes: (N,).
        target_classes: (M,) class of every label, also of images without detections.
        ignored: (N, 10) bool: detections that count neither for nor against, and are not correct;
            None for none.

    Returns:
        The metrics; all zero when nothing is correct, k = 0 without labels.

    Source: spec E.4, v7.
    """
    correct, scores = np.asarray(correct, dtype=bool), np.asarray(scores)
    targets = np.asarray(target_classes).astype(np.int64)
    classes, counts = np.unique(targets, return_counts=True)
    if ignored is not None and not ignored.any():
        ignored = None

    k = len(classes)
    ap = np.zeros((k, len(IOU_THRESHOLDS)))
    precision_curve, recall_curve, pr_curve = (np.zeros((k, len(CURVE))) for _ in range(3))
    ranked = best_first(scores, predicted_classes, classes) if correct.any() else []
    for row, mine in enumerate(ranked):
        if not len(mine):
            continue
        hits, falling = correct[mine], -scores[mine].astype(np.float64)
        shown = _shown(mine, ignored)
        recall, precision = _after_each(hits[:, 0], shown[:, 0], counts[row])
        # Interpolation wants ascending positions, so over falling confidence.
        recall_curve[row] = np.interp(-CURVE, falling, recall, left=0)
        precision_curve[row] = np.interp(-CURVE, falling, precision, left=1)
        for column in range(len(IOU_THRESHOLDS)):
            hit, seen = np.flatnonzero(hits[:, column]), shown[:, column % shown.shape[1]]
            if not seen[-1]:  # all of them lie in crowd regions: nothing was found
                continue
            envelope = _Envelope(seen[hit], seen[-1], counts[row])
            ap[row, column] = np.trapezoid(envelope.at(_GRID), _GRID)
            if column == 0:
                pr_curve[row] = envelope.at(CURVE)

    f1_curve = 2 * precision_curve * recall_curve / (precision_curve + recall_curve + _EPS)
    best = _best_point(f1_curve)
    precision, recall = precision_curve[:, best], recall_curve[:, best]
    tp = (recall * counts).round()
    return DetectionMetrics(
        classes=classes,
        labels_per_class=counts.astype(np.int64),
        tp=tp,
        fp=(tp / (precision + _EPS) - tp).round(),
        precision=precision,
        recall=recall,
        f1=f1_curve[:, best],
        ap=ap,
        confidence=CURVE,
        precision_curve=precision_curve,
        recall_curve=recall_curve,
        f1_curve=f1_curve,
        pr_curve=pr_curve,
    )


def best_first(
    scores: npt.ArrayLike, predicted_classes: npt.ArrayLike, classes: npt.NDArray[np.int64]
) -> Iterator[npt.NDArray[np.int64]]:
    """The detections of each class by score; equal scores keep their order.

    Args:
        scores: (N,).
        predicted_classes: (N,).
        classes: (k,) ascending.

    Yields:
        (n,) rows, k times.
    """
    predicted = np.asarray(predicted_classes).astype(np.int64)
    place = np.searchsorted(classes, predicted)
    place[np.append(classes, -1)[place] != predicted] = len(classes)
    # The smallest type, for short integers are sorted without comparing them.
    order = np.argsort(place.astype(np.min_scalar_type(len(classes))), kind="stable")
    falling = -np.asarray(scores)
    ends = np.bincount(place, minlength=len(classes) + 1).cumsum()
    for start, end in zip([0, *ends[:-2]], ends[:-1], strict=True):
        mine = order[start:end]
        yield mine[np.argsort(falling[mine], kind="stable")]


class ConfusionMatrix:
    """Counts which class was taken for which, over images.

    Rows are predicted, columns true classes; the last index is the background: a missed label
    counts in the last row, a false detection in the last column.

    Source: spec E.5; fix H.16: unmatched detections count on every image, not only on those with
    a match.
    """

    confidence = 0.25  # detections need more to count
    iou = 0.45  # pairs need more to match

    def __init__(self, num_classes: int) -> None:
        self.matrix = np.zeros((num_classes + 1, num_classes + 1))

    def add(
        self, detections: npt.ArrayLike, labels: npt.ArrayLike, crowd: npt.ArrayLike = ()
    ) -> None:
        """Counts one image.

        Args:
            detections: (N, 6) xyxy, score, class.
            labels: (M, 5) class, xyxy.
            crowd: (K, 5) class, xyxy; a false detection that lies in one counts nowhere.
        """
        self.add_all(stack([detections], 6), stack([labels], 5), stack([crowd], 5))

    def add_all(self, detections: Stack, labels: Stack, crowd: Stack) -> None:
        """Counts many images at once."""
        found = detections.where(detections.rows[:, 4] > self.confidence)
        best, iou = best_overlaps(
            found.rows[:, :4], found.picture, labels.rows[:, 1:], labels.picture, self.iou
        )
        hits = np.flatnonzero((best >= 0) & (iou > self.iou))
        hits = hits[np.lexsort((-iou[hits], best[hits]))]  # by label, the best fit first
        hits = hits[np.diff(best[hits], prepend=-1) > 0]
        true, background = labels.classes(0), len(self.matrix) - 1
        columns, missed = np.full(len(best), background), np.ones(len(true), dtype=bool)
        columns[hits], missed[best[hits]] = true[best[hits]], False
        counts = (columns < background) | (crowd_covers(found, crowd) <= self.iou)
        np.add.at(self.matrix, (found.classes(5)[counts], columns[counts]), 1)
        np.add.at(self.matrix[background], true[missed], 1)


def table_rows(metrics: DetectionMetrics, names: Sequence[str], images: int) -> list[str]:
    """The evaluation table: header, "all", then one line per class seen.

    Source: spec E.1, v7 format.
    """

    def line(name: str, labels: int, values: tuple[float, float, float, float]) -> str:
        return f"{name:>22}{images:>11}{labels:>11}" + "".join(f"{v:>11.3g}" for v in values)

    columns = ("Images", "Instances", "P", "R", "mAP50", "mAP50-95")
    means = (metrics.mean_precision, metrics.mean_recall, metrics.map50, metrics.map50_95)
    rows = [
        f"{'Class':>22}" + "".join(f"{column:>11}" for column in columns),
        line("all", int(metrics.labels_per_class.sum()), means),
    ]
    for i, cls in enumerate(metrics.classes):
        values = (metrics.precision[i], metrics.recall[i], metrics.ap50[i], metrics.ap[i].mean())
        rows.append(line(names[cls], int(metrics.labels_per_class[i]), values))
    return rows


def _mean(values: FloatArray) -> float:
    return float(values.mean()) if values.size else 0.0


def _shown(mine: npt.NDArray[np.int64], ignored: BoolArray | None) -> npt.NDArray[np.int64]:
    """(n, 10) how many count up to each detection of a class; (n, 1) if none is ignored."""
    if ignored is None:
        return np.arange(1, len(mine) + 1)[:, None]
    return (~ignored[mine]).cumsum(0)


def _after_each(
    hits: BoolArray, shown: npt.NDArray[np.int64], labels: int
) -> tuple[FloatArray, FloatArray]:
    """Recall and precision after each detection of a class, (n,) each."""
    true_positives = hits.cumsum()
    # Before the first that counts nothing is wrong yet.
    precision = np.where(shown > 0, true_positives / np.maximum(shown, 1), 1.0)
    return true_positives / (labels + _EPS), precision


class _Envelope:
    """Precision over recall with end points, made non-increasing, and linear in between.

    Only the correct detections are looked at. From one to the next the envelope is flat, as high as
    the next one makes it: those between only lower the precision. Behind the last it falls, from
    the precision after all detections to 0 at recall 1.
    """

    def __init__(self, shown: npt.NDArray[np.int64], all_shown: int, labels: int) -> None:
        true_positives = np.arange(1, len(shown) + 1)
        self._recall = true_positives / (labels + _EPS)
        heights = np.maximum.accumulate((true_positives / shown)[::-1])[::-1]
        self._heights = np.append(heights, 0.0)
        self._reached = self._recall[-1] if len(shown) else 0.0
        self._after_all = len(shown) / all_shown if all_shown else 1.0

    def at(self, recalls: FloatArray) -> FloatArray:
        """Precision at ascending recalls."""
        place = np.searchsorted(self._recall, recalls, side="right")
        heights = self._heights[place]
        tail = np.searchsorted(recalls, self._reached)
        heights[tail:] = np.interp(recalls[tail:], [self._reached, 1.0], [self._after_all, 0.0])
        return heights


def _best_point(f1_curve: FloatArray) -> int:
    """Index into CURVE of the largest smoothed mean F1; 0 without classes."""
    return int(_smooth(f1_curve.mean(0)).argmax()) if len(f1_curve) else 0


def _smooth(values: FloatArray) -> FloatArray:
    """Moving mean over _SMOOTHING points; the edge values are repeated outside."""
    padded = np.pad(values, _SMOOTHING // 2, mode="edge")
    return np.convolve(padded, np.full(_SMOOTHING, 1 / _SMOOTHING), mode="valid")
