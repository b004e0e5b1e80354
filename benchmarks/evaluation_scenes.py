"""Drawn inputs of the evaluation benchmarks: labels with detections, and outputs of the network."""

import numpy as np

from yolov5_core.evaluation import ImageDetections

_SIDE = 640.0  # pixels of the pictures
_LABELS = 7.2  # a picture: 36,000 on 5,000, as COCO val2017


def coco_like(pictures: int, num_classes: int = 80, seed: int = 0) -> list[ImageDetections]:
    """Pictures with 7.2 labels on average and 100 to 300 detections each.

    Classes are as uneven as COCO's (the first a quarter of all). Half of the detections lie about a
    label, two thirds of them of its class; the scores of good fits are high, most others are low.
    """
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, num_classes + 1)
    share /= share.sum()
    # As uneven as in COCO: many pictures with a few labels, some with dozens.
    counts = rng.negative_binomial(1.2, 1.2 / (1.2 + _LABELS), pictures)
    return [
        _picture(rng, index, int(count), num_classes, share) for index, count in enumerate(counts)
    ]


def _picture(
    rng: np.random.Generator, index: int, count: int, num_classes: int, share: np.ndarray
) -> ImageDetections:
    present = rng.choice(num_classes, 3, p=share)  # a picture shows a few classes
    boxes = _boxes(rng, count)
    label_classes = rng.choice(present, count)
    total = int(rng.integers(100, 301))
    near = total // 2 if count else 0
    of = rng.integers(0, max(count, 1), near)
    sides = boxes[of, 2:] - boxes[of, :2]
    blur = rng.exponential(0.12, (near, 1))
    found = boxes[of] + rng.normal(0, 1, (near, 4)) * blur * np.tile(sides, 2)
    same = rng.random(near) < 2 / 3
    elsewhere = rng.choice(num_classes, total - near, p=share)
    other = np.concatenate([rng.choice(num_classes, near, p=share), elsewhere])
    classes = other
    classes[:near] = np.where(same, label_classes[of], other[:near])
    scores = np.exp(rng.uniform(np.log(0.001), np.log(0.3), total))
    fit = np.exp(-6 * blur[:, 0]) * rng.uniform(0.3, 1, near)
    scores[:near] = np.where(same & (rng.random(near) < 0.5), np.maximum(fit, 0.001), scores[:near])
    rows = np.concatenate([found, _boxes(rng, total - near)]).clip(0, _SIDE)
    rows = np.column_stack([rows[:, :2], np.maximum(rows[:, 2:], rows[:, :2] + 1), scores, classes])
    return ImageDetections(
        index,
        rows[np.argsort(-scores, kind="stable")].astype(np.float32),
        np.column_stack([label_classes, boxes]).astype(np.float32),
    )


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) xyxy: sides of 8 to 400 pixels, as often small as large."""
    sides = np.exp(rng.uniform(np.log(8), np.log(400), (count, 2)))
    corners = rng.uniform(0, 1, (count, 2)) * (_SIDE - sides)
    return np.concatenate([corners, corners + sides], 1)
