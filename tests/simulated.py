"""Detections of detectors whose quality is known, on pictures that both see."""

from collections.abc import Mapping

import numpy as np

from yolov5_core.evaluation import ImageDetections

_SIDE = 100.0  # pixels, of every box
_LABELS = 4  # a picture, on average
_FALSE = 1.0  # false detections a picture, on average


def simulated_pictures(
    night: int,
    images: int,
    quality: Mapping[int, float],
    num_classes: int = 3,
    seed: int = 0,
) -> tuple[ImageDetections, ...]:
    """What a detector finds.

    Args:
        night: Which pictures: the same for both detectors of a night.
        images: How many.
        quality: By class, how well boxes fit, from 0 to 1; 0.7 for the others.
        num_classes: Classes.
        seed: Of the detector's own luck.
    """
    world = np.random.default_rng([night, 1])
    luck = np.random.default_rng([night, 2, seed])
    found = []
    for index in range(images):
        count = int(world.poisson(_LABELS))
        classes = world.integers(num_classes, size=count)
        hard = world.normal(0, 0.15, size=count)  # some objects are hard for every detector
        corners = np.stack([1000.0 * np.arange(count), np.zeros(count)], 1)
        labels = np.concatenate([classes[:, None], corners, corners + _SIDE], 1)
        fit = np.array([quality.get(int(c), 0.7) for c in classes]) - hard
        fit = np.clip(fit + luck.normal(0, 0.1, size=count), 0, 1)
        seen = luck.random(count) < 0.6 + 0.4 * fit
        shift = _SIDE * (1 - fit) / (1 + fit)  # then the IoU is the fit
        boxes = np.concatenate([corners, corners + _SIDE], 1) + shift[:, None] * [1, 0, 1, 0]
        scores = np.clip(0.3 + 0.6 * fit + luck.normal(0, 0.1, size=count), 0.01, 0.99)
        wrong = int(luck.poisson(_FALSE))
        nowhere = np.stack([np.full(wrong, -5e4), 1e3 * np.arange(wrong)], 1)
        detections = np.concatenate(
            [
                np.concatenate([boxes, scores[:, None], classes[:, None]], 1)[seen],
                np.concatenate(
                    [
                        nowhere,
                        nowhere + _SIDE,
                        luck.uniform(0.05, 0.6, (wrong, 1)),
                        luck.integers(num_classes, size=(wrong, 1)),
                    ],
                    1,
                ),
            ]
        )
        best_first = np.argsort(-detections[:, 4])
        found.append(
            ImageDetections(
                index, detections[best_first].astype(np.float32), labels.astype(np.float32)
            )
        )
    return tuple(found)
