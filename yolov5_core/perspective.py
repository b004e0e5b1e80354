"""Random perspective: one warp of image, boxes and polygons, and which boxes survive it.

Images are (H, W, 3 or 4) uint8: OpenCV warps four channels in 40 % of the time of three, with the
same pixels. Labels are (n, 5) class and xyxy pixels, segments n polygons (k, 2) pixels, (0, 2) for
a label without one. Inputs are never changed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from yolov5_core.augment import FILL
from yolov5_core.boxes import clip_boxes
from yolov5_core.config import AugmentConfig
from yolov5_core.dataset import NO_SEGMENT
from yolov5_core.mosaic import Window

_RESAMPLED_POINTS = 1000  # per polygon, spec C.9
_AREA_THRESHOLD_BOXES = 0.10
_AREA_THRESHOLD_SEGMENTS = 0.01
_BORDER = (*FILL, FILL[0])
_WARP_FLAGS = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
_MARGIN = 1  # pixels around what a warp reads
_WARP_ROUNDING = 1e-6  # OpenCV works out where to read in float32: 8 times its relative error


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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Warp:
    """One warp of one picture."""

    matrix: np.ndarray  # (3, 3) float64, input to output pixels
    inverse: np.ndarray  # (3, 3) float64, output to input pixels, as OpenCV will use it
    scale: float  # factor, of the draw
    shape_hw: tuple[int, int]  # of the input
    size_wh: tuple[int, int]  # of the output


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
    shear_x, shear_y = math.tan(math.radians(draw.shear_x)), math.tan(math.radians(draw.shear_y))
    shear = np.array([[1, shear_x, 0], [shear_y, 1, 0], [0, 0, 1]])
    to_x = draw.translate_x * (width + 2 * border_hw[1])
    to_y = draw.translate_y * (height + 2 * border_hw[0])
    translation = np.array([[1, 0, to_x], [0, 1, to_y], [0, 0, 1]])
    return translation @ shear @ rotation @ perspective @ to_centre


def plan_warp(
    draw: PerspectiveDraw, shape_hw: tuple[int, int], border_hw: tuple[int, int] = (0, 0)
) -> Warp:
    """Works a warp out; see perspective_matrix."""
    matrix = perspective_matrix(draw, shape_hw, border_hw)
    if _is_projective(matrix):
        inverse = cv2.invert(matrix)[1]
    else:
        inverse = np.eye(3)
        inverse[:2] = cv2.invertAffineTransform(matrix[:2])
    return Warp(
        matrix=matrix,
        inverse=inverse,
        scale=draw.scale,
        shape_hw=shape_hw,
        size_wh=(shape_hw[1] + 2 * border_hw[1], shape_hw[0] + 2 * border_hw[0]),
    )


def random_perspective(
    image: np.ndarray,
    labels: np.ndarray,
    segments: Sequence[np.ndarray],
    draw: PerspectiveDraw,
    border_hw: tuple[int, int] = (0, 0),
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """Warps image, labels and polygons and drops the labels that are no longer worth learning.

    Args:
        image: (H, W, 3 or 4) uint8.
        labels: (n, 5) class, xyxy pixels.
        segments: n polygons (k, 2), pixels, (0, 2) for none.
        draw: The random numbers.
        border_hw: See perspective_matrix.

    Returns:
        Image (H + 2 bh, W + 2 bw, as many channels), the labels kept, their polygons.

    Source: spec C.9.
    """
    warp = plan_warp(draw, (image.shape[0], image.shape[1]), border_hw)
    kept, is_kept = warp_labels(labels, segments, warp)
    kept_segments = tuple(
        warp_points(segment, warp.matrix).clip(0, warp.size_wh).astype(segment.dtype)
        if len(segment)
        else NO_SEGMENT
        for segment, stays in zip(segments, is_kept.tolist(), strict=True)
        if stays
    )
    return warp_image(image, warp), kept, kept_segments


def warp_image(image: np.ndarray, warp: Warp) -> np.ndarray:
    """The image (H, W, 3 or 4) uint8 warped; itself if the warp changes nothing."""
    if warp.size_wh == warp.shape_hw[::-1] and np.array_equal(warp.matrix, np.eye(3)):
        return image
    if _is_projective(warp.matrix):
        return cv2.warpPerspective(
            image, warp.inverse, dsize=warp.size_wh, flags=_WARP_FLAGS, borderValue=_BORDER
        )
    return cv2.warpAffine(
        image, warp.inverse[:2], dsize=warp.size_wh, flags=_WARP_FLAGS, borderValue=_BORDER
    )


def seen_window(warp: Warp) -> Window:
    """The smallest rectangle of the input that holds every pixel the warp reads."""
    height, width = warp.shape_hw
    right, bottom = warp.size_wh[0] - 1, warp.size_wh[1] - 1
    row_x, row_y, row_depth = warp.inverse.tolist()
    xs, ys, depths, rounding = [], [], [], 0.0
    for corner in ((0, 0), (right, 0), (0, bottom), (right, bottom)):
        depth = _dot(row_depth, corner)
        depths.append(depth)
        if depth:
            xs.append(_dot(row_x, corner) / depth)
            ys.append(_dot(row_y, corner) / depth)
            size = max(_dot([abs(v) for v in row], corner) for row in (row_x, row_y))
            rounding = max(rounding, _WARP_ROUNDING * size / abs(depth))
    # the horizon crosses the output: what it reads is not bounded by its corners
    if min(depths) <= 0 <= max(depths):
        return Window(0, 0, width, height)
    margin = _MARGIN + rounding
    return Window(
        math.floor(min(max(min(xs) - margin, 0), width)),
        math.floor(min(max(min(ys) - margin, 0), height)),
        math.ceil(min(max(max(xs) + margin + 1, 0), width)),
        math.ceil(min(max(max(ys) + margin + 1, 0), height)),
    )


def _dot(row: list[float], point: tuple[int, int]) -> float:
    return row[0] * point[0] + row[1] * point[1] + row[2]


def warp_labels(
    labels: np.ndarray, segments: Sequence[np.ndarray], warp: Warp
) -> tuple[np.ndarray, np.ndarray]:
    """Warps labels and drops those that are no longer worth learning.

    Boxes are redrawn around their warped polygons when every label has one, else around their
    warped corners (which makes them larger than the object when rotated).

    Args:
        labels: (n, 5) class, xyxy pixels.
        segments: n polygons (k, 2), pixels, (0, 2) for none.
        warp: Of the picture they belong to.

    Returns:
        The labels kept, and (n,) bool: which these are.

    Source: spec C.9.
    """
    if not len(labels):
        return labels, np.zeros(0, dtype=bool)
    if all(len(segment) for segment in segments):
        boxes = _boxes_of_warped_segments(segments, warp)
        area_threshold = _AREA_THRESHOLD_SEGMENTS
    else:
        boxes = _warped_boxes(labels[:, 1:], warp)
        area_threshold = _AREA_THRESHOLD_BOXES
    keep = box_candidates(labels[:, 1:] * warp.scale, boxes, area_threshold=area_threshold)
    kept = labels[keep]  # a copy
    kept[:, 1:] = boxes[keep]
    return kept, keep


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
    """Points (..., 2) through a (3, 3) matrix: (..., 2) float64."""
    projected = points @ matrix[:, :2].T + matrix[:, 2]
    if not _is_projective(matrix):
        return projected[..., :2]
    return projected[..., :2] / projected[..., 2:]


def _is_projective(matrix: np.ndarray) -> bool:
    """Whether parallel lines may meet: only then points are divided by their third number."""
    return bool(matrix[2, 0] != 0 or matrix[2, 1] != 0)


def _warped_boxes(boxes: np.ndarray, warp: Warp) -> np.ndarray:
    corners = warp_points(boxes[:, [0, 1, 2, 3, 0, 3, 2, 1]].reshape(-1, 2), warp.matrix)
    corners = corners.reshape(-1, 4, 2)
    return clip_boxes(np.concatenate((corners.min(1), corners.max(1)), 1), *warp.size_wh)


def _boxes_of_warped_segments(segments: Sequence[np.ndarray], warp: Warp) -> np.ndarray:
    points = warp_points(_resampled(segments), warp.matrix)  # (n, points, 2)
    inside = np.all((points >= 0) & (points <= warp.size_wh), axis=2, keepdims=True)
    low = np.where(inside, points, np.inf).min(1)
    high = np.where(inside, points, -np.inf).max(1)
    return np.where(inside.any(1), np.concatenate((low, high), 1), 0.0)


def _resampled(segments: Sequence[np.ndarray]) -> np.ndarray:
    """Each polygon closed and drawn with the same number of points: (n, points, 2) float64."""
    closed = np.concatenate([part for s in segments for part in (s, s[:1])]).astype(np.float64)
    edges = np.array([len(s) for s in segments])
    first = np.cumsum(edges + 1) - edges - 1  # of each polygon in `closed`
    places = np.linspace(0, edges, _RESAMPLED_POINTS, axis=1)
    corner = np.minimum(places.astype(np.int64), edges[:, None] - 1)
    share = (places - corner)[..., None]
    start = closed[first[:, None] + corner]
    return start + share * (closed[first[:, None] + corner + 1] - start)
