"""The result of an evaluation as a record, and as one file that plots and reports are made from."""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from yolov5_core.metrics import DetectionMetrics


@dataclass(frozen=True, slots=True, eq=False)
class ImageDetections:
    """What was found in one image, in its native pixels."""

    index: int  # of the record
    detections: np.ndarray  # (N, 6) float32 xyxy, score, class; best first
    labels: np.ndarray  # (M, 5) float32 class, xyxy


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The result of one pass over a validation set."""

    metrics: DetectionMetrics
    losses: tuple[float, float, float]  # box, obj, cls: means over the batches
    confusion: np.ndarray  # (nc + 1, nc + 1)
    images: tuple[ImageDetections, ...]  # in the order of the pass

    @property
    def results(self) -> tuple[float, float, float, float, float, float, float]:
        """P, R, mAP50, mAP50-95, box, obj, cls: the seven last columns of results.txt."""
        m = self.metrics
        return (m.mean_precision, m.mean_recall, m.map50, m.map50_95, *self.losses)


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
        detections=np.concatenate([np.zeros((0, 6), np.float32), *(i.detections for i in images)]),
        labels=np.concatenate([np.zeros((0, 5), np.float32), *(i.labels for i in images)]),
        **arrays,
    )
    return path


def load_evaluation(path: Path) -> Evaluation:
    """Reads what save_evaluation wrote; nothing in it is executed."""
    with np.load(path, allow_pickle=False) as file:
        metrics = DetectionMetrics(**{f.name: file[f.name] for f in fields(DetectionMetrics)})
        detections = np.split(file["detections"], np.cumsum(file["detection_counts"])[:-1])
        labels = np.split(file["labels"], np.cumsum(file["label_counts"])[:-1])
        images = tuple(
            ImageDetections(int(index), found, truth)
            for index, found, truth in zip(file["image_index"], detections, labels, strict=False)
        )
        box, obj, cls = file["losses"].tolist()
        return Evaluation(metrics, (box, obj, cls), file["confusion"], images)
