"""Detection metrics: matching, average precision, confusion matrix and their text table.

Axes: N detections, M labels, K crowd regions, k classes that occur in the labels, 10 IoU
thresholds, 1000 points of a curve. Detections are rows xyxy, score, class; labels and crowd regions
are rows class, xyxy; all in pixels of the same space (the native image).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from yolov5_core.boxes import covered_share, pairwise_iou

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10).astype(np.float32)  # float32 as the boxes' IoU
CURVE = np.linspace(0, 1, 1000)  # confidences, or recalls of pr_curve
_SMOOTHING = 101  # points of the box filter over the mean F1: a tenth of CURVE to either side
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
    found = _rows(detections, 6)
    truth = _rows(labels, 5)
    label_of = np.full((len(found), len(IOU_THRESHOLDS)), -1, dtype=np.int64)
    if not len(found) or not len(truth):
        return label_of
    iou = pairwise_iou(truth[:, 1:], found[:, :4]) * (truth[:, :1] == found[:, 5])  # (M, N)
    best_label, best_iou = iou.argmax(0), iou.max(0)
    for column, threshold in enumerate(IOU_THRESHOLDS):
        claims = np.flatnonzero(best_iou >= threshold)
        labels_claimed, first = np.unique(best_label[claims], return_index=True)
        label_of[claims[first], column] = labels_claimed
    return label_of


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
    found = _rows(detections, 6)
    cover = np.zeros(len(found), np.float32)
    for cls, *box in _rows(crowd, 5):
        share = covered_share(np.array(box), found[:, :4])
        cover = np.maximum(cover, share * (found[:, 5] == cls))
    return cover


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
    scores = np.asarray(scores, dtype=np.float64)
    order = np.argsort(-scores, kind="stable")
    correct, scores = np.asarray(correct, dtype=bool)[order], scores[order]
    counted = np.ones_like(correct) if ignored is None else ~ignored[order]
    predicted = np.asarray(predicted_classes)[order].astype(np.int64)
    targets = np.asarray(target_classes).astype(np.int64)
    classes, counts = np.unique(targets, return_counts=True)

    k = len(classes)
    ap = np.zeros((k, len(IOU_THRESHOLDS)))
    precision_curve, recall_curve, pr_curve = (np.zeros((k, len(CURVE))) for _ in range(3))
    for row, (cls, count) in enumerate(zip(classes, counts, strict=True)):
        mine = predicted == cls
        if not correct.any() or not mine.any():
            continue
        true_positives = correct[mine].cumsum(0)  # (n, 10) after each detection
        shown = counted[mine].cumsum(0)
        recall = true_positives / (count + _EPS)
        # Before the first that counts nothing is wrong yet.
        precision = np.where(shown > 0, true_positives / np.maximum(shown, 1), 1.0)
        # Interpolation wants ascending positions, so over falling confidence.
        recall_curve[row] = np.interp(-CURVE, -scores[mine], recall[:, 0], left=0)
        precision_curve[row] = np.interp(-CURVE, -scores[mine], precision[:, 0], left=1)
        for column in range(len(IOU_THRESHOLDS)):
            points = _precision_envelope(recall[:, column], precision[:, column])
            ap[row, column] = _area(*points)
            if column == 0:
                pr_curve[row] = np.interp(CURVE, *points)

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
        found = _rows(detections, 6)
        found = found[found[:, 4] > self.confidence]
        truth = _rows(labels, 5)
        predicted, true = found[:, 5].astype(np.int64), truth[:, 0].astype(np.int64)
        background = len(self.matrix) - 1
        label_of = np.full(len(found), -1)
        label_taken = np.zeros(len(truth), dtype=bool)
        if len(found) and len(truth):
            iou = pairwise_iou(truth[:, 1:], found[:, :4])
            best_label, best_iou = iou.argmax(0), iou.max(0)
            for i in np.argsort(-best_iou, kind="stable"):
                if best_iou[i] > self.iou and not label_taken[best_label[i]]:
                    label_of[i] = best_label[i]
                    label_taken[best_label[i]] = True
        counts = (label_of >= 0) | (crowd_cover(found, crowd) <= self.iou)
        # An unmatched detection's -1 picks the appended background.
        columns = np.append(true, background)[label_of[counts]]
        np.add.at(self.matrix, (predicted[counts], columns), 1)
        np.add.at(self.matrix[background], true[~label_taken], 1)


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


def _rows(values: npt.ArrayLike, width: int) -> npt.NDArray[np.float32]:
    # float32 throughout: an IoU of exactly a threshold then compares as in the public program.
    return np.asarray(values, dtype=np.float32).reshape(-1, width)


def _mean(values: FloatArray) -> float:
    return float(values.mean()) if values.size else 0.0


def _precision_envelope(recall: FloatArray, precision: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Recall and precision with end points, precision made non-increasing."""
    recall = np.concatenate([[0.0], recall, [1.0]])
    precision = np.concatenate([[1.0], precision, [0.0]])
    return recall, np.maximum.accumulate(precision[::-1])[::-1]


def _area(recall: FloatArray, precision: FloatArray) -> float:
    """Trapezoid integral over 101 equally spaced recalls."""
    grid = np.linspace(0, 1, 101)
    return float(np.trapezoid(np.interp(grid, recall, precision), grid))


def _best_point(f1_curve: FloatArray) -> int:
    """Index into CURVE of the largest smoothed mean F1; 0 without classes."""
    return int(_smooth(f1_curve.mean(0)).argmax()) if len(f1_curve) else 0


def _smooth(values: FloatArray) -> FloatArray:
    """Moving mean over _SMOOTHING points; the edge values are repeated outside."""
    padded = np.pad(values, _SMOOTHING // 2, mode="edge")
    return np.convolve(padded, np.full(_SMOOTHING, 1 / _SMOOTHING), mode="valid")
