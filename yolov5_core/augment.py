"""Steps on one picture: resize, letterbox, colour, mix-up, flips.

Images are (H, W, 3) uint8 (colour order matters only to `to_rgb`), labels (n, 5) float32 class and
xyxy pixels. Every random number is an argument; inputs are never changed.
"""

import cv2
import numpy as np

from yolov5_core.boxes import Letterbox, letterbox_geometry, resized_hw
from yolov5_core.config import AugmentConfig

FILL = (114, 114, 114)  # grey of every pixel no image covers, spec C.6


def resize_longest(image: np.ndarray, image_size: int, augment: bool) -> np.ndarray:
    """The image with its longer side at image_size; itself when it already is.

    Args:
        image: (H, W, 3) uint8.
        image_size: Pixels.
        augment: Linear interpolation also when shrinking (else area averaging: sharper, slower).

    Source: spec C.5.
    """
    return resize(image, resized_hw((image.shape[0], image.shape[1]), image_size), augment)


def resize(image: np.ndarray, shape_hw: tuple[int, int], augment: bool) -> np.ndarray:
    """The image (H, W, 3) uint8 at another size, itself when it already has it."""
    if shape_hw == image.shape[:2]:
        return image
    enlarging = max(shape_hw) > max(image.shape[:2])
    interpolation = cv2.INTER_LINEAR if augment or enlarging else cv2.INTER_AREA
    return cv2.resize(image, shape_hw[::-1], interpolation=interpolation)


def letterbox(
    image: np.ndarray,
    new_shape_hw: tuple[int, int],
    *,
    auto: bool = False,
    scale_fill: bool = False,
    scaleup: bool = True,
    stride: int = 32,
) -> tuple[np.ndarray, Letterbox]:
    """The image resized and padded to a canvas, and how it lies there.

    Args:
        image: (H, W, 3) uint8.
        new_shape_hw: Canvas height and width.
        auto: See boxes.letterbox_geometry, also for the other options.
        scale_fill: Stretch instead of padding.
        scaleup: Also enlarge small images.
        stride: Used by auto.

    Source: spec C.6.
    """
    geometry = letterbox_geometry(
        (image.shape[0], image.shape[1]),
        new_shape_hw,
        auto=auto,
        scale_fill=scale_fill,
        scaleup=scaleup,
        stride=stride,
    )
    if (image.shape[1], image.shape[0]) != geometry.unpadded_wh:
        image = cv2.resize(image, geometry.unpadded_wh, interpolation=cv2.INTER_LINEAR)
    border = (geometry.top, geometry.bottom, geometry.left, geometry.right)
    return cv2.copyMakeBorder(image, *border, cv2.BORDER_CONSTANT, value=FILL), geometry


def hsv_gains(rng: np.random.Generator, config: AugmentConfig) -> np.ndarray | None:
    """Draws the factors of hue, saturation and value: (3,) float64 around 1, None when all are off.

    Source: spec C.10.
    """
    strength = np.array((config.hsv_h, config.hsv_s, config.hsv_v))
    if not strength.any():
        return None
    return 1 + rng.uniform(-1, 1, 3) * strength


def hsv_lut(gains: np.ndarray) -> np.ndarray:
    """Look-up tables of the colour change.

    Args:
        gains: (3,) factors of hue (0-179, wraps), saturation and value (saturate).

    Returns:
        (3, 256) uint8, truncated.

    Source: spec C.10.
    """
    table = np.arange(256, dtype=np.float64) * gains[:, None]
    table[0] %= 180
    table[1:] = table[1:].clip(0, 255)
    return table.astype(np.uint8)


def to_rgb(image_bgr: np.ndarray, gains: np.ndarray | None) -> np.ndarray:
    """The image in RGB, with another hue, saturation and value.

    Args:
        image_bgr: (H, W, 3 or 4) uint8, BGR; a fourth channel is left out.
        gains: (3,) factors, see hsv_lut; None keeps the colours.

    Returns:
        (H, W, 3) uint8, a new array.

    Source: spec C.10.
    """
    if gains is None:
        has_fourth = image_bgr.shape[2] == 4
        return cv2.cvtColor(image_bgr, cv2.COLOR_BGRA2RGB if has_fourth else cv2.COLOR_BGR2RGB)
    hsv = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2HSV)
    planes = cv2.split(hsv)  # three tables on planes are faster than one of three channels
    for plane, table in zip(planes, hsv_lut(gains), strict=True):
        cv2.LUT(plane, table, dst=plane)
    cv2.merge(planes, dst=hsv)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def mixup_ratio(rng: np.random.Generator) -> float:
    """Draws the weight of the first image, Beta(32, 32), so near one half (spec C.8)."""
    return float(rng.beta(32.0, 32.0))


def mixup(
    image_a: np.ndarray,
    labels_a: np.ndarray,
    image_b: np.ndarray,
    labels_b: np.ndarray,
    ratio: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Blends two images, ratio * A + (1 - ratio) * B truncated to uint8, and joins their labels.

    Source: spec C.8.
    """
    levels = np.arange(256)
    table = (levels * ratio + (levels * (1 - ratio))[:, None]).astype(np.uint8)  # rows are B
    pairs = image_b.astype(np.uint16)
    pairs <<= 8
    pairs |= image_a
    # a look-up of every pair of levels: 4 times as fast as the sum in float64, and the same numbers
    return table.ravel().take(pairs, mode="wrap"), np.concatenate((labels_a, labels_b))


def flip_up_down(image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels mirrored at the horizontal middle line (spec C.10)."""
    flipped = labels.copy()
    flipped[:, [2, 4]] = image.shape[0] - labels[:, [4, 2]]
    return cv2.flip(image, 0), flipped


def flip_left_right(image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels mirrored at the vertical middle line (spec C.10)."""
    flipped = labels.copy()
    flipped[:, [1, 3]] = image.shape[1] - labels[:, [3, 1]]
    return cv2.flip(image, 1), flipped
