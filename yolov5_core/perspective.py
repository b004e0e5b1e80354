"""Random perspective: one warp of image, boxes and polygons, and which boxes survive it.

Images are (H, W, 3) uint8, labels (n, 5) class and xyxy pixels, segments n polygons (k, 2) pixels,
(0, 2) for a label without one. Inputs are never changed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from yolov5_core.augment import FILL
from yolov5_core.boxes import clip_boxes
from yolov5_core.config import AugmentConfig

_RESAMPLED_POINTS = 1000  # per polygon, spec C.9
_AREA_THRESHOLD_BOXES = 0.10
_AREA_THRESHOLD_SEGMENTS = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class PerspectiveDraw:
    """The random numbers of one warp, in drawing order; the defaults change nothing."""

    perspective_x: float = 0.0
    perspective_y: float = 0.0
    angle: float = 0.0  # degrees, positive is counter-clockwise on the screen
    scale: float = 1.0  # factor
    shear_x: float = 0.0  # degrees
    shear_y: float = 0.0  # degrees
    translate_x: float = 0.5  # where the centre goes, fraction of the output width
    translate_y: float = 0.5

    @property
    def is_projective(self) -> bool:
        """Whether parallel lines may meet: only then points are divided by their third number."""
        return self.perspective_x != 0 or self.perspective_y != 0


def draw_perspective(rng: np.random.Generator, config: AugmentConfig) -> PerspectiveDraw:
    """Draws one warp (spec C.9)."""
    return PerspectiveDraw(
        perspective_x=rng.uniform(-config.perspective, config.perspective),
        perspective_y=rng.uniform(-config.perspective, config.perspective),
        angle=rng.uniform(-config.degrees, config.degrees),
        scale=rng.uniform(1 - config.scale, 1 + config.scale),
        shear_x=rng.uniform(-config.shear, config.shear),
        shear_y=rng.uniform(-config.shear, config.shear),
        translate_x=rng.uniform(0.5 - config.translate, 0.5 + config.translate),
        translate_y=rng.uniform(0.5 - config.translate, 0.5 + config.translate),
    )


def perspective_matrix(
    draw: PerspectiveDraw, shape_hw: tuple[int, int], border_hw: tuple[int, int]
) -> np.ndarray:
    """The (3, 3) float64 matrix from input to output pixels, T S R P C of spec C.9.

    Args:
        draw: The random numbers.
        shape_hw: Input height and width.
        border_hw: Added on each side; negative crops (mosaic: minus half the image size).
    """
    height, width = shape_hw
    to_centre = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]])
    perspective = np.array([[1, 0, 0], [0, 1, 0], [draw.perspective_x, draw.perspective_y, 1]])
    cosine = draw.scale * math.cos(math.radians(draw.angle))
    sine = draw.scale * math.sin(math.radians(draw.angle))
    rotation = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
    shear = np.eye(3)
    shear[0, 1] = math.tan(math.radians(draw.shear_x))
    shear[1, 0] = math.tan(math.radians(draw.shear_y))
    translation = np.eye(3)
    translation[0, 2] = draw.translate_x * (width + 2 * border_hw[1])
    translation[1, 2] = draw.translate_y * (height + 2 * border_hw[0])
    return translation @ shear @ rotation @ perspective @ to_centre


def random_perspective(
    image: np.ndarray,
    labels: np.ndarray,
    segments: Sequence[np.ndarray],
    draw: PerspectiveDraw,
    border_hw: tuple[int, int] = (0, 0),
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """Warps image, labels and polygons and drops the labels that are no longer worth learning.

    Boxes are redrawn around their warped polygons when every label has one, else around their
    warped corners (which makes them larger than the object when rotated).

    Args:
        image: (H, W, 3) uint8.
        labels: (n, 5) class, xyxy pixels.
        segments: n polygons (k, 2), pixels, (0, 2) for none.
        draw: The random numbers.
        border_hw: See perspective_matrix.

    Returns:
        Image (H + 2 bh, W + 2 bw, 3), the labels kept, their polygons.

    Source: spec C.9.
    """
    matrix = perspective_matrix(draw, (image.shape[0], image.shape[1]), border_hw)
    size_wh = (image.shape[1] + 2 * border_hw[1], image.shape[0] + 2 * border_hw[0])
    warped = _warp_image(image, matrix, size_wh, draw.is_projective)
    if not len(labels):
        return warped, labels, ()
    by_segments = all(len(segment) for segment in segments)
    if by_segments:
        boxes = _boxes_of_warped_segments(segments, matrix, size_wh)
        area_threshold = _AREA_THRESHOLD_SEGMENTS
    else:
        boxes = _warped_boxes(labels[:, 1:], matrix, size_wh)
        area_threshold = _AREA_THRESHOLD_BOXES
    keep = box_candidates(labels[:, 1:] * draw.scale, boxes, area_threshold=area_threshold)
    kept = labels[keep]  # a copy
    kept[:, 1:] = boxes[keep]
    kept_segments = tuple(
        warp_points(segment, matrix).clip(0, size_wh).astype(segment.dtype)
        for segment, stays in zip(segments, keep, strict=True)
        if stays
    )
    return warped, kept, kept_segments


def box_candidates(
    before: np.ndarray,
    after: np.ndarray,
    width_threshold: float = 2,
    aspect_threshold: float = 100,
    area_threshold: float = 0.1,
) -> np.ndarray:
    """Which boxes are still large enough and not slivers.

    Args:
        before: (n, 4) xyxy pixels before the warp, times its scale.
        after: (n, 4) xyxy pixels after it.
        width_threshold: Each side must be longer, pixels.
        aspect_threshold: Longer over shorter side must be below.
        area_threshold: Area after over before must be above.

    Returns:
        (n,) bool.

    Source: spec C.9.
    """
    width_before, height_before = (before[:, 2:] - before[:, :2]).T
    width, height = (after[:, 2:] - after[:, :2]).T
    aspect = np.maximum(width / (height + 1e-16), height / (width + 1e-16))
    area_share = width * height / (width_before * height_before + 1e-16)
    large = (width > width_threshold) & (height > width_threshold)
    keep: np.ndarray = large & (area_share > area_threshold) & (aspect < aspect_threshold)
    return keep


def warp_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points (k, 2) through a (3, 3) matrix: (k, 2) float64."""
    projected = points @ matrix[:, :2].T + matrix[:, 2]
    if matrix[2, 0] == 0 and matrix[2, 1] == 0:
        return projected[:, :2]
    return projected[:, :2] / projected[:, 2:]


def _warp_image(
    image: np.ndarray, matrix: np.ndarray, size_wh: tuple[int, int], is_projective: bool
) -> np.ndarray:
    if size_wh == (image.shape[1], image.shape[0]) and np.array_equal(matrix, np.eye(3)):
        return image
    if is_projective:
        return cv2.warpPerspective(image, matrix, dsize=size_wh, borderValue=FILL)
    return cv2.warpAffine(image, matrix[:2], dsize=size_wh, borderValue=FILL)


def _warped_boxes(boxes: np.ndarray, matrix: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    corners = warp_points(boxes[:, [0, 1, 2, 3, 0, 3, 2, 1]].reshape(-1, 2), matrix)
    corners = corners.reshape(-1, 4, 2)
    return clip_boxes(np.concatenate((corners.min(1), corners.max(1)), 1), *size_wh)


def _boxes_of_warped_segments(
    segments: Sequence[np.ndarray], matrix: np.ndarray, size_wh: tuple[int, int]
) -> np.ndarray:
    boxes = np.zeros((len(segments), 4))
    for box, segment in zip(boxes, segments, strict=True):
        points = warp_points(_resampled(segment), matrix)
        inside = points[((points >= 0) & (points <= size_wh)).all(1)]
        if len(inside):
            box[:] = (*inside.min(0), *inside.max(0))
    return boxes


def _resampled(segment: np.ndarray) -> np.ndarray:
    closed = np.concatenate((segment, segment[:1]))
    index = np.arange(len(closed))
    places = np.linspace(0, len(closed) - 1, _RESAMPLED_POINTS)
    return np.stack([np.interp(places, index, closed[:, axis]) for axis in (0, 1)], 1)
