"""The result of an evaluation as a record, and as one file that plots and reports are made from."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from yolov5_core.dataset import NO_BOXES
from yolov5_core.limits import MAX_ARRAYS_BYTES
from yolov5_core.matching import Stack, stack
from yolov5_core.metrics import (
    IOU_THRESHOLDS,
    DetectionMetrics,
    average_precision_per_class,
    best_labels,
    crowd_covers,
)
from yolov5_core.zips import ZIP_FAULTS, open_zip


class EvaluationError(ValueError):
    """A file that is no evaluation of ours."""


def _no_boxes() -> np.ndarray:
    return NO_BOXES


@dataclass(frozen=True, slots=True, eq=False)
class ImageDetections:
    """What was found in one image, in its native pixels."""

    index: int  # of the record
    detections: np.ndarray  # (N, 6) float32 xyxy, score, class; best first
    labels: np.ndarray  # (M, 5) float32 class, xyxy
    crowd: np.ndarray = field(default_factory=_no_boxes)  # (K, 5) float32 class, xyxy


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The result of one pass over a validation set."""

    metrics: DetectionMetrics
    losses: tuple[float, float, float]  # box, obj, cls: means over the batches; NaN: none computed
    confusion: np.ndarray  # (nc + 1, nc + 1)
    images: tuple[ImageDetections, ...]  # in the order of the pass

    @property
    def results(self) -> tuple[float, float, float, float, float, float, float]:
        """P, R, mAP50, mAP50-95, box, obj, cls: the seven last columns of results.txt."""
        m = self.metrics
        return (m.mean_precision, m.mean_recall, m.map50, m.map50_95, *self.losses)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Matches:
    """All detections of a set next to what they find; rows in the order of the images."""

    best_label: np.ndarray  # (N,) int64 row of labels that each overlaps most, -1 for none
    correct: np.ndarray  # (N, 10) bool by IOU_THRESHOLDS: finds that label
    in_crowd: np.ndarray  # (N, 10) bool: finds no label and lies in a crowd region of its class
    detections: np.ndarray  # (N, 6) float32 xyxy, score, class
    labels: np.ndarray  # (M, 5) float32 class, xyxy

    @property
    def label_of(self) -> np.ndarray:
        """(N, 10) int64 row of the label found, -1 for none."""
        return np.where(self.correct, self.best_label[:, None], -1)


def match_images(images: Sequence[ImageDetections]) -> Matches:
    """Matches detections and labels of each image, all images at once."""
    detections, labels, crowd = stacked(images)
    best, correct = best_labels(detections, labels)
    in_crowd = np.zeros_like(correct)
    if len(crowd.rows):
        in_crowd |= crowd_covers(detections, crowd)[:, None] >= IOU_THRESHOLDS
        in_crowd &= ~correct
    return Matches(
        best_label=best,
        correct=correct,
        in_crowd=in_crowd,
        detections=detections.rows,
        labels=labels.rows,
    )


def stacked(images: Sequence[ImageDetections]) -> tuple[Stack, Stack, Stack]:
    """Detections, labels and crowd regions of a set."""
    return (
        stack([image.detections for image in images], 6),
        stack([image.labels for image in images], 5),
        stack([image.crowd for image in images], 5),
    )


def detection_metrics(images: Sequence[ImageDetections]) -> DetectionMetrics:
    """The metrics of a whole set."""
    m = match_images(images)
    scores, classes = m.detections[:, 4], m.detections[:, 5]
    return average_precision_per_class(m.correct, scores, classes, m.labels[:, 0], m.in_crowd)


def save_evaluation(evaluation: Evaluation, path: Path) -> Path:
    """Writes an evaluation as .npz, plain arrays only."""
    images = evaluation.images
    arrays = {f.name: getattr(evaluation.metrics, f.name) for f in fields(DetectionMetrics)}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        losses=np.array(evaluation.losses),
        confusion=evaluation.confusion,
        image_index=np.array([i.index for i in images], np.int64),
        detection_counts=np.array([len(i.detections) for i in images], np.int64),
        label_counts=np.array([len(i.labels) for i in images], np.int64),
        crowd_counts=np.array([len(i.crowd) for i in images], np.int64),
        detections=np.concatenate([np.zeros((0, 6), np.float32), *(i.detections for i in images)]),
        labels=np.concatenate([NO_BOXES, *(i.labels for i in images)]),
        crowd=np.concatenate([NO_BOXES, *(i.crowd for i in images)]),
        **arrays,
    )
    return path


def load_evaluation(path: Path) -> Evaluation:
    """Reads what save_evaluation wrote; nothing in it is executed.

    Raises:
        EvaluationError: No such file, damaged, or too large.
    """
    try:
        with path.open("rb") as file:
            open_zip(file, MAX_ARRAYS_BYTES).close()
        return _load(path)
    except (*ZIP_FAULTS, KeyError, TypeError) as error:
        raise EvaluationError(f"{path}: no evaluation, or damaged: {error}") from error


def _load(path: Path) -> Evaluation:
    with np.load(path, allow_pickle=False) as file:
        metrics = DetectionMetrics(**{f.name: file[f.name] for f in fields(DetectionMetrics)})
        parts = [
            np.split(file[rows], np.cumsum(file[counts])[:-1])
            for rows, counts in (
                ("detections", "detection_counts"),
                ("labels", "label_counts"),
                ("crowd", "crowd_counts"),
            )
        ]
        images = tuple(
            ImageDetections(int(index), *rows)
            for index, *rows in zip(file["image_index"], *parts, strict=False)
        )
        box, obj, cls = file["losses"].tolist()
        return Evaluation(metrics, (box, obj, cls), file["confusion"], images)
