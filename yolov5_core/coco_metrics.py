"""COCO's metrics by pycocotools, and our own by COCO's rules, step by step from one to the other.

The two disagree on the same detections for three reasons (spec E.3, E.4):

* the curve: ours is interpolated between its points, from precision 1 at recall 0 to precision 0 at
  recall 1, and integrated by trapezoids over 101 recalls; COCO takes at each of the 101 recalls the
  best precision at that recall or more, and the mean;
* how many: ours takes all detections of a picture, COCO the best 100 of a class and picture;
* the match: ours lets a detection claim only the label it overlaps most, so that a second one on
  the same label is wrong; COCO gives it the best label that is still free.
"""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from yolov5_core.evaluation import Evaluation, ImageDetections, Matches, match_images
from yolov5_core.metrics import IOU_THRESHOLDS

MAX_DETECTIONS = 100  # of a class and picture, by score
_RECALLS = np.linspace(0, 1, 101)
_ALL_SIZES, _SIZES = 0, {"small": 1, "medium": 2, "large": 3}  # of pycocotools' area axis
_MOST = 2  # of its axis of 1, 10 or 100 detections
_RECALL_SHAPE = (len(IOU_THRESHOLDS), 4, 3)  # IoU, sizes, most
_PRECISION_SHAPE = (len(IOU_THRESHOLDS), len(_RECALLS), 4, 3)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CocoMetrics:
    """The twelve figures of COCO and the AP of each class; NaN where there are no labels."""

    ap: float  # mean over IoU 0.5 to 0.95
    ap50: float
    ap75: float
    ap_small: float  # labels below 32 x 32 pixels
    ap_medium: float
    ap_large: float  # above 96 x 96
    ar1: float  # recall of the best detection of each class and picture, mean over IoU
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    per_class: np.ndarray  # (C,) ap

    def figures(self) -> dict[str, float]:
        """The twelve figures by name, in COCO's order."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "per_class"}


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleStep:
    """The mean AP after one more of COCO's rules took the place of ours."""

    rule: str
    map50: float
    map50_95: float


def coco_metrics(images: Sequence[ImageDetections], num_classes: int) -> CocoMetrics:
    """Evaluates detections as COCO does.

    Sizes are those of the boxes, for want of masks; crowd regions are labels with iscrowd.

    Args:
        images: The set.
        num_classes: Classes of the data set; those without labels count nowhere.
    """
    present = {int(cls) for image in images for cls in image.labels[:, 0]}
    precision = np.full((num_classes, *_PRECISION_SHAPE), -1.0)
    recall = np.full((num_classes, *_RECALL_SHAPE), -1.0)
    with redirect_stdout(io.StringIO()):  # pycocotools tells its progress by print
        for cls in sorted(present):
            precision[cls], recall[cls] = _evaluate_class(images, cls)
    return _collect(precision, recall)


def _evaluate_class(images: Sequence[ImageDetections], cls: int) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall of one class alone: its dicts take some 500 bytes a detection."""
    # Imported here: training evaluates every epoch and never needs it.
    from pycocotools.coco import COCO  # type: ignore[import-untyped]  # noqa: PLC0415
    from pycocotools.cocoeval import COCOeval  # type: ignore[import-untyped]  # noqa: PLC0415

    truth, found = COCO(), COCO()
    tables = ((truth, list(_label_rows(images, cls))), (found, list(_detection_rows(images, cls))))
    pictures = sorted({picture for _, rows in tables for picture, *_ in rows})
    for coco, rows in tables:
        coco.dataset = {
            "images": [{"id": picture} for picture in pictures],
            "categories": [{"id": cls}],
            "annotations": [_annotation(cls, i, *row) for i, row in enumerate(rows, 1)],
        }
        coco.createIndex()
    evaluator = COCOeval(truth, found, "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator.eval["precision"][:, :, 0], evaluator.eval["recall"][:, 0]


_Row = tuple[int, list[float], dict[str, Any]]  # picture, xyxy, what else pycocotools reads


def _label_rows(images: Sequence[ImageDetections], cls: int) -> Iterator[_Row]:
    for picture, image in enumerate(images):
        for iscrowd, rows in enumerate((image.labels, image.crowd)):
            for box in rows[rows[:, 0] == cls, 1:].tolist():
                yield picture, box, {"iscrowd": iscrowd}


def _detection_rows(images: Sequence[ImageDetections], cls: int) -> Iterator[_Row]:
    for picture, image in enumerate(images):
        rows = image.detections
        for *box, score, _ in rows[rows[:, 5] == cls].tolist():
            yield picture, box, {"score": score}


def _annotation(
    cls: int, identity: int, picture: int, box: list[float], more: dict[str, Any]
) -> dict[str, Any]:
    """A COCO annotation; its id is not 0, which pycocotools takes for no match."""
    x1, y1, x2, y2 = box
    width, height = x2 - x1, y2 - y1
    return {
        "id": identity,
        "image_id": picture,
        "category_id": cls,
        "bbox": [x1, y1, width, height],
        "area": width * height,
        **more,
    }


def _collect(precision: np.ndarray, recall: np.ndarray) -> CocoMetrics:
    """From (C, IoU, 101 recalls, size, most) and (C, IoU, size, most), -1 for undefined."""
    ap = {name: _mean(precision[..., size, _MOST]) for name, size in _SIZES.items()}
    ar = {name: _mean(recall[..., size, _MOST]) for name, size in _SIZES.items()}
    everything = precision[..., _ALL_SIZES, _MOST]
    return CocoMetrics(
        ap=_mean(everything),
        ap50=_mean(everything[:, 0]),
        ap75=_mean(everything[:, 5]),
        ap_small=ap["small"],
        ap_medium=ap["medium"],
        ap_large=ap["large"],
        ar1=_mean(recall[..., _ALL_SIZES, 0]),
        ar10=_mean(recall[..., _ALL_SIZES, 1]),
        ar100=_mean(recall[..., _ALL_SIZES, _MOST]),
        ar_small=ar["small"],
        ar_medium=ar["medium"],
        ar_large=ar["large"],
        per_class=np.array([_mean(own) for own in everything]),
    )


def _mean(values: np.ndarray) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else math.nan


def step_average_precision(matches: Matches) -> np.ndarray:
    """Average precision of our matches under COCO's rule of the curve.

    Returns:
        (k, 10) by class that occurs in the labels, ascending, and IOU_THRESHOLDS.

    Source: pycocotools 2.0.11, COCOeval.accumulate.
    """
    order = np.argsort(-matches.detections[:, 4], kind="stable")
    predicted = matches.detections[order, 5].astype(np.int64)
    correct, ignored = matches.correct[order], matches.in_crowd[order]
    classes, counts = np.unique(matches.labels[:, 0].astype(np.int64), return_counts=True)
    ap = np.zeros((len(classes), len(IOU_THRESHOLDS)))
    for row, (cls, count) in enumerate(zip(classes, counts, strict=True)):
        mine = predicted == cls
        for column in range(len(IOU_THRESHOLDS)):
            hits = correct[mine, column][~ignored[mine, column]]
            true_positives = hits.cumsum()
            precision = true_positives / np.arange(1, len(hits) + 1)
            best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
            reached = np.searchsorted(true_positives / count, _RECALLS, side="left")
            ap[row, column] = np.append(best_from_here, 0.0)[reached].mean()
    return ap


def strongest(image: ImageDetections) -> ImageDetections:
    """The image with the best MAX_DETECTIONS of each class only."""
    classes = image.detections[:, 5]
    keep = np.zeros(len(classes), dtype=bool)
    for cls in np.unique(classes):
        mine = np.flatnonzero(classes == cls)
        order = np.argsort(-image.detections[mine, 4], kind="stable")
        keep[mine[order[:MAX_DETECTIONS]]] = True
    return ImageDetections(image.index, image.detections[keep], image.labels, image.crowd)


def from_ours_to_coco(evaluation: Evaluation, coco: CocoMetrics) -> tuple[RuleStep, ...]:
    """The mean AP by our rules, then with COCO's put in their place one after the other."""

    def step(rule: str, ap: np.ndarray) -> RuleStep:
        means = (float(ap[:, 0].mean()), float(ap.mean())) if len(ap) else (math.nan, math.nan)
        return RuleStep(rule=rule, map50=means[0], map50_95=means[1])

    images = evaluation.images
    limited = match_images([strongest(image) for image in images])
    return (
        step("ours", evaluation.metrics.ap),
        step("COCO's curve", step_average_precision(match_images(images))),
        step(f"best {MAX_DETECTIONS} of a class and picture", step_average_precision(limited)),
        RuleStep(rule="COCO's match (pycocotools)", map50=coco.ap50, map50_95=coco.ap),
    )
