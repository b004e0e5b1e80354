"""Pictures made of pictures: mosaics of four and nine, and copy-paste of objects by their polygons.

A mosaic is a canvas of twice the image size, before the perspective that crops its middle. Images
are (H, W, 3) uint8, a canvas (H, W, 4) (see perspective.py: the fourth channel means nothing),
labels (n, 5) class and xyxy pixels, segments n polygons (k, 2) pixels, (0, 2) for a label without
one, unless a name says normalised. Inputs are never changed, except a canvas by `paint`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from yolov5_core.augment import FILL
from yolov5_core.boxes import clip_boxes, covered_share, cxcywh_to_xyxy
from yolov5_core.dataset import NO_SEGMENT

_LARGEST_COVERED_SHARE = 0.30  # of an object already there, spec C.8

Corner = tuple[int, int]  # left and top of a tile on the canvas, pixels; negative is outside


class Window(NamedTuple):
    """A rectangle of whole pixels of a canvas; right and bottom lie outside."""

    left: int
    top: int
    right: int
    bottom: int


class Tile(NamedTuple):
    """One picture of a mosaic, labels as the data set stores them."""

    size_hw: tuple[int, int]  # resized
    labels_cxcywh: np.ndarray  # (n, 5) float32 class, normalised cx, cy, w, h
    segments_normalised: Sequence[np.ndarray]  # n polygons (k, 2) float32, fractions of the image


def draw_mosaic_center(rng: np.random.Generator, image_size: int) -> tuple[int, int]:
    """Draws where four tiles meet: (x, y) pixels within the middle half of the canvas."""
    y, x = (int(rng.uniform(image_size / 2, 3 * image_size / 2)) for _ in range(2))
    return x, y


def corners4(sizes_hw: Sequence[tuple[int, int]], center_xy: tuple[int, int]) -> list[Corner]:
    """Where four tiles lie around the point where they meet.

    Args:
        sizes_hw: Of the tiles top-left, top-right, bottom-left, bottom-right.
        center_xy: The point, canvas pixels.

    Source: spec C.8.
    """
    x, y = center_xy
    return [
        (x - (width if place in (0, 2) else 0), y - (height if place in (0, 1) else 0))
        for place, (height, width) in enumerate(sizes_hw)
    ]


def draw_mosaic9_crop(rng: np.random.Generator, image_size: int) -> tuple[int, int]:
    """Draws the (x, y) in a mosaic of nine, three image sizes wide, where the canvas begins."""
    x, y = (int(rng.uniform(0, image_size)) for _ in range(2))
    return x, y


def corners9(
    sizes_hw: Sequence[tuple[int, int]], image_size: int, crop_xy: tuple[int, int]
) -> list[Corner]:
    """Where nine tiles lie: one in the middle, the others around it, clockwise from above it.

    Args:
        sizes_hw: Of the middle, top, top-right, right, bottom-right, bottom, bottom-left, left and
            top-left tile, sides image_size or less.
        image_size: Pixels.
        crop_xy: Where the canvas begins, see draw_mosaic9_crop.

    Source: spec C.8.
    """
    s = image_size
    (h0, w0), (_, w1), _, (h3, _), _, (_, w5), _, (h7, _), _ = sizes_hw
    h, w = zip(*sizes_hw, strict=True)
    corners = [
        (s, s),
        (s, s - h[1]),
        (s + w1, s - h[2]),
        (s + w0, s),
        (s + w0, s + h3),
        (s + w0 - w5, s + h0),
        (s + w0 - w5 - w[6], s + h0),
        (s - w[7], s + h0 - h7),
        (s - w[8], s + h0 - h7 - h[8]),
    ]
    return [(left - crop_xy[0], top - crop_xy[1]) for left, top in corners]


def place_labels(
    tiles: Sequence[Tile], corners: Sequence[Corner], side: int
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """The labels of all tiles on a canvas.

    Args:
        tiles: Four or nine.
        corners: Where they lie.
        side: Of the canvas, pixels.

    Returns:
        Labels (n, 5) float32 and polygons, clipped to the canvas; a box wholly outside has no area
        left (the candidate filter of the perspective removes it).

    Source: spec C.8.
    """
    labels = np.concatenate([tile.labels_cxcywh for tile in tiles])  # a copy
    geometry = np.array(
        [(w, h, x, y) for ((h, w), _, _), (x, y) in zip(tiles, corners, strict=True)], np.float32
    )
    of_row = np.repeat(geometry, [len(tile.labels_cxcywh) for tile in tiles], axis=0)
    boxes = cxcywh_to_xyxy(labels[:, 1:]) * of_row[:, [0, 1, 0, 1]] + of_row[:, [2, 3, 2, 3]]
    labels[:, 1:] = clip_boxes(boxes, side, side)
    segments: list[np.ndarray] = []
    for tile, place in zip(tiles, geometry, strict=True):
        if any(map(len, tile.segments_normalised)):
            segments += [
                (segment * place[:2] + place[2:]).clip(0, side) if len(segment) else NO_SEGMENT
                for segment in tile.segments_normalised
            ]
        else:
            segments += [NO_SEGMENT] * len(tile.labels_cxcywh)
    return labels, tuple(segments)


def new_canvas(side: int, window: Window) -> np.ndarray:
    """A canvas (side, side, 4) uint8, grey within the window; outside are whatever bytes."""
    canvas = np.empty((side, side, 4), np.uint8)
    canvas[window.top : window.bottom, window.left : window.right] = FILL[0]
    return canvas


def is_seen(size_hw: tuple[int, int], corner: Corner, window: Window) -> bool:
    """Whether any of a tile lies in the window."""
    x1, y1, x2, y2 = _overlap(size_hw, corner, window)
    return x1 < x2 and y1 < y2


def paint(canvas: np.ndarray, image: np.ndarray, corner: Corner, window: Window) -> None:
    """Writes the part of a tile that lies in the window into the canvas.

    Args:
        canvas: (H, W, 4) uint8.
        image: (h, w, 3) uint8.
        corner: Where it lies.
        window: Inside the canvas.
    """
    left, top = corner
    x1, y1, x2, y2 = _overlap((image.shape[0], image.shape[1]), corner, window)
    if x1 < x2 and y1 < y2:
        part = image[y1 - top : y2 - top, x1 - left : x2 - left]
        cv2.cvtColor(part, cv2.COLOR_BGR2BGRA, dst=canvas[y1:y2, x1:x2])


def _overlap(size_hw: tuple[int, int], corner: Corner, window: Window) -> Window:
    (height, width), (left, top) = size_hw, corner
    return Window(
        max(left, window.left),
        max(top, window.top),
        min(left + width, window.right),
        min(top + height, window.bottom),
    )


def choose_copies(
    rng: np.random.Generator, probability: float, segments: Sequence[np.ndarray]
) -> list[int]:
    """Draws which objects to copy: round(probability * n) of the n that have a polygon."""
    if not probability:
        return []
    outlined = [i for i, segment in enumerate(segments) if len(segment)]
    count = round(probability * len(outlined))
    if not count:
        return []
    return [outlined[i] for i in rng.choice(len(outlined), count, replace=False)]


def mirrored_window(window: Window, width: int) -> Window:
    """The window widened to hold its mirror image too: copies come from there."""
    left = min(window.left, width - window.right)
    return Window(left, window.top, width - left, window.bottom)


def copy_paste(
    image: np.ndarray,
    labels: np.ndarray,
    segments: Sequence[np.ndarray],
    chosen: Sequence[int],
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """Adds the mirror images of chosen objects where they hide little of what is there.

    Args:
        image: (H, W, 3 or 4) uint8.
        labels: (n, 5) class, xyxy pixels.
        segments: n polygons (k, 2) pixels.
        chosen: Indices of labels with a polygon, in the order they are tried.

    Returns:
        Image, labels and polygons with the accepted copies appended; the inputs themselves if none.

    Source: spec C.8.
    """
    width = image.shape[1]
    out_labels, out_segments = labels, tuple(segments)
    pasted = image
    for i in chosen:
        mirrored = labels[i].copy()
        mirrored[[1, 3]] = width - labels[i, [3, 1]]
        if (covered_share(mirrored[1:], out_labels[:, 1:]) >= _LARGEST_COVERED_SHARE).any():
            continue
        out_labels = np.concatenate((out_labels, mirrored[None]))
        polygon = segments[i].copy()
        polygon[:, 0] = width - polygon[:, 0]
        out_segments += (polygon,)
        if pasted is image:
            pasted = image.copy()
        _paste_mirrored(pasted, image, segments[i].astype(np.int32))
    return pasted, out_labels, out_segments


def _paste_mirrored(pasted: np.ndarray, image: np.ndarray, outline: np.ndarray) -> None:
    """Copies what lies in an outline (k, 2) int32 from the image to its mirror place."""
    height, width = image.shape[:2]
    left, top = np.maximum(outline.min(0), 0).tolist()
    right, bottom = np.minimum(outline.max(0) + 1, (width, height)).tolist()
    if left >= right or top >= bottom:
        return
    mask = np.zeros((bottom - top, right - left), np.uint8)
    cv2.drawContours(mask, [outline], -1, 1, cv2.FILLED, offset=(-left, -top))
    target = pasted[top:bottom, width - right : width - left]
    cv2.copyTo(cv2.flip(image[top:bottom, left:right], 1), cv2.flip(mask, 1), dst=target)
