"""Pictures made of pictures: the mosaic of four and copy-paste of objects by their polygons.

Images are (H, W, 3) uint8, labels (n, 5) class and xyxy pixels, segments n polygons (k, 2) pixels,
(0, 2) for a label without one, unless a name says normalised. Inputs are never changed.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from yolov5_core.augment import FILL
from yolov5_core.boxes import clip_boxes, covered_share, denormalise

_LARGEST_COVERED_SHARE = 0.30  # of an object already there, spec C.8


class Tile(NamedTuple):
    """One picture of a mosaic, labels as the data set stores them."""

    image: np.ndarray  # (h, w, 3) uint8, resized
    labels_cxcywh: np.ndarray  # (n, 5) float32 class, normalised cx, cy, w, h
    segments_normalised: Sequence[np.ndarray]  # n polygons (k, 2) float32, fractions of the image


def draw_mosaic_center(rng: np.random.Generator, image_size: int) -> tuple[int, int]:
    """Draws where the four tiles meet: (x, y) pixels within the middle half of the canvas."""
    y, x = (int(rng.uniform(image_size / 2, 3 * image_size / 2)) for _ in range(2))
    return x, y


def mosaic4(
    tiles: Sequence[Tile], center_xy: tuple[int, int], image_size: int
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """Four pictures around a point, before the perspective that crops the middle.

    Args:
        tiles: Top-left, top-right, bottom-left, bottom-right; sides about image_size or less.
        center_xy: The point where they meet, canvas pixels.
        image_size: Pixels; the canvas is twice that.

    Returns:
        Canvas (2s, 2s, 3) uint8, labels (n, 5) float32 and polygons, clipped to the canvas; a box
        wholly outside has no area left (the candidate filter of the perspective removes it).

    Source: spec C.8.
    """
    side = 2 * image_size
    canvas = np.full((side, side, 3), FILL[0], np.uint8)  # one number fills 100 times faster
    all_labels: list[np.ndarray] = []
    all_segments: list[np.ndarray] = []
    for place, (image, labels_cxcywh, segments) in enumerate(tiles):
        height, width = image.shape[:2]
        left = center_xy[0] - (width if place in (0, 2) else 0)
        top = center_xy[1] - (height if place in (0, 1) else 0)
        _paste(canvas, image, left, top)
        labels = labels_cxcywh.copy()
        labels[:, 1:] = clip_boxes(
            denormalise(labels_cxcywh[:, 1:], width, height, left, top), side, side
        )
        all_labels.append(labels)
        size_wh = np.array((width, height), np.float32)
        offset = np.array((left, top), np.float32)
        all_segments += [(segment * size_wh + offset).clip(0, side) for segment in segments]
    return canvas, np.concatenate(all_labels), tuple(all_segments)


def _paste(canvas: np.ndarray, image: np.ndarray, left: int, top: int) -> None:
    x1, y1 = max(left, 0), max(top, 0)
    x2 = min(left + image.shape[1], canvas.shape[1])
    y2 = min(top + image.shape[0], canvas.shape[0])
    canvas[y1:y2, x1:x2] = image[y1 - top : y2 - top, x1 - left : x2 - left]


def choose_copies(
    rng: np.random.Generator, probability: float, segments: Sequence[np.ndarray]
) -> list[int]:
    """Draws which objects to copy: round(probability * n) of the n that have a polygon."""
    outlined = [i for i, segment in enumerate(segments) if len(segment)]
    count = round(probability * len(outlined))
    if not count:
        return []
    return [outlined[i] for i in rng.choice(len(outlined), count, replace=False)]


def copy_paste(
    image: np.ndarray,
    labels: np.ndarray,
    segments: Sequence[np.ndarray],
    chosen: Sequence[int],
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """Adds the mirror images of chosen objects where they hide little of what is there.

    Args:
        image: (H, W, 3) uint8.
        labels: (n, 5) class, xyxy pixels.
        segments: n polygons (k, 2) pixels.
        chosen: Indices of labels with a polygon, in the order they are tried.

    Returns:
        Image, labels and polygons with the accepted copies appended; the inputs themselves if none.

    Source: spec C.8.
    """
    width = image.shape[1]
    out_labels, out_segments = labels, tuple(segments)
    mask = np.zeros(image.shape[:2], np.uint8)
    for i in chosen:
        mirrored = labels[i].copy()
        mirrored[[1, 3]] = width - labels[i, [3, 1]]
        if (covered_share(mirrored[1:], out_labels[:, 1:]) >= _LARGEST_COVERED_SHARE).any():
            continue
        out_labels = np.concatenate((out_labels, mirrored[None]))
        polygon = segments[i].copy()
        polygon[:, 0] = width - polygon[:, 0]
        out_segments += (polygon,)
        outline = segments[i].astype(np.int32)  # painted unmirrored: the mask is flipped as a whole
        cv2.drawContours(mask, [outline], -1, 1, cv2.FILLED)
    if len(out_labels) == len(labels):
        return image, labels, out_segments
    pasted = np.where(cv2.flip(mask, 1)[..., None], cv2.flip(image, 1), image)
    return pasted, out_labels, out_segments
