"""The pictures a detector does worst on: which labels it misses, which detections are false."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yolov5_core.evaluation import ImageDetections
from yolov5_core.metrics import IOU_THRESHOLDS, crowd_cover, found_labels

CONFIDENCE = 0.25  # detections need more to count, spec E.5
IOU = float(IOU_THRESHOLDS[0])
SHOWN = 16  # pictures, as many as one grid holds


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageErrors:
    """The errors in one picture."""

    index: int  # of the record
    correct: np.ndarray  # (c, 6) detections xyxy, score, class
    false: np.ndarray  # (f, 6) detections that find no label
    missed: np.ndarray  # (m, 5) labels class, xyxy that nothing finds

    @property
    def harm(self) -> float:
        """One for each missed label, and its score for each false detection."""
        return len(self.missed) + float(self.false[:, 4].sum())


def find_errors(image: ImageDetections) -> ImageErrors:
    """The errors of the confident detections at IoU 0.5.

    A detection that finds no label, but lies in a crowd region of its class, is no error.
    """
    found = image.detections[image.detections[:, 4] > CONFIDENCE]
    label_of = found_labels(found, image.labels)[:, 0]
    unknown = crowd_cover(found, image.crowd) >= IOU
    missed = np.ones(len(image.labels), dtype=bool)
    missed[label_of[label_of >= 0]] = False
    return ImageErrors(
        index=image.index,
        correct=found[label_of >= 0],
        false=found[(label_of < 0) & ~unknown],
        missed=image.labels[missed],
    )


def worst_images(images: Sequence[ImageDetections], count: int = SHOWN) -> tuple[ImageErrors, ...]:
    """The pictures with the most harmful errors, worst first; none without errors."""
    errors = [find_errors(image) for image in images]
    wrong = sorted((e for e in errors if e.harm > 0), key=lambda e: (-e.harm, e.index))
    return tuple(wrong[:count])
