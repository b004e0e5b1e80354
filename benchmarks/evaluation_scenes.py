"""Drawn inputs of the evaluation benchmarks: labels with detections, and outputs of the network."""

import numpy as np
import torch
from torch import Tensor

from yolov5_core.evaluation import ImageDetections

_SIDE = 640.0  # pixels of the pictures
_LABELS = 7.2  # a picture: 36,000 on 5,000, as COCO val2017
# Width and height of the default anchors, pixels, by stride.
_ANCHORS = {
    8: ((10, 13), (16, 30), (33, 23)),
    16: ((30, 61), (62, 45), (59, 119)),
    32: ((116, 90), (156, 198), (373, 326)),
}


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


def early_outputs(batch: int, num_classes: int, image_size: int = 640, seed: int = 0) -> Tensor:
    """(batch, N, 5 + nc) as an early epoch has them: nearly every prediction is a candidate."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(batch):
        rows = _predictions(rng, num_classes, image_size)
        rows[:, 4] = _sigmoid(rng.normal(-4, 1, len(rows)))
        prior = rng.normal(-1.5, 1, num_classes)
        rows[:, 5:] = _sigmoid(prior + rng.normal(0, 0.5, (len(rows), num_classes)))
        images.append(rows)
    return torch.from_numpy(np.stack(images).astype(np.float32))


def trained_outputs(
    batch: int, num_classes: int, image_size: int = 640, doubt: float = -7.0, seed: int = 0
) -> Tensor:
    """(batch, N, 5 + nc) as a trained model has them: predictions heaped on 12 objects.

    Args:
        batch: Images.
        num_classes: Classes.
        image_size: Pixels.
        doubt: Mean logit of the classes that an object is not of: the higher, the more candidates.
        seed: Of what is drawn.
    """
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(batch):
        rows = _predictions(rng, num_classes, image_size)
        rows[:, 4] = _sigmoid(rng.normal(-9.5, 1, len(rows)))
        rows[:, 5:] = _sigmoid(rng.normal(doubt, 1.5, (len(rows), num_classes)))
        for _ in range(12):
            _heap(rng, rows, num_classes, image_size)
        images.append(rows)
    return torch.from_numpy(np.stack(images).astype(np.float32))


def _heap(rng: np.random.Generator, rows: np.ndarray, num_classes: int, image_size: int) -> None:
    """Puts one object where it is: the predictions near it, of like size, are about it."""
    centre = rng.uniform(0, image_size, 2)
    size = np.exp(rng.uniform(np.log(16), np.log(300), 2)) * image_size / 640
    away = np.abs(rows[:, :2] - centre) / size
    unlike = np.maximum(rows[:, 2:4] / size, size / rows[:, 2:4]).max(1)
    about = np.flatnonzero((away < 0.5).all(1) & (unlike < 4))
    count = len(about)
    rows[about, :2] = centre + rng.normal(0, 0.06, (count, 2)) * size
    rows[about, 2:4] = size * np.exp(rng.normal(0, 0.1, (count, 2)))
    rows[about, 4] = _sigmoid(rng.normal(1, 0.8, count) - 8 * (away[about] ** 2).sum(1))
    rows[about, 5 + rng.integers(num_classes)] = _sigmoid(rng.normal(2, 0.8, count))


def _predictions(rng: np.random.Generator, num_classes: int, image_size: int) -> np.ndarray:
    """A prediction for each cell and anchor, near its anchor; scores 0."""
    parts = []
    for stride, anchors in _ANCHORS.items():
        cells = np.arange(image_size // stride)
        xy = (np.stack(np.meshgrid(cells, cells), -1).reshape(-1, 2) + 0.5) * stride
        parts += [np.concatenate([xy, np.broadcast_to(wh, xy.shape)], 1) for wh in anchors]
    boxes = np.concatenate(parts)
    boxes[:, :2] += rng.normal(0, 3, (len(boxes), 2))
    boxes[:, 2:] *= np.exp(rng.normal(0, 0.15, (len(boxes), 2))) * image_size / 640
    return np.concatenate([boxes, np.zeros((len(boxes), 1 + num_classes))], 1)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))
