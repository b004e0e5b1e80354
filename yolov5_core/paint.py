"""Colours, textures, light and noise of the drawn pictures; knows nothing of classes or boxes.

Pictures in the making are float32 (H, W, 3) BGR in about [0, 255].
"""

import cv2
import numpy as np


def background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """An empty scene: two colours mixed by noise of several scales, stripes, checks or a gradient.

    Args:
        rng: Draws everything about the scene.
        height: Pixels.
        width: Pixels.

    Returns:
        (H, W, 3) float32 BGR.
    """
    side = max(height, width)
    mix = 0.7 * _cloud(rng, height, width, side / rng.uniform(1.5, 4))
    mix += 0.35 * _cloud(rng, height, width, side / rng.uniform(6, 14))
    style = rng.random()
    if style < 0.3:
        mix = 0.6 * mix + 0.5 * _stripes(rng, height, width, side * rng.uniform(0.06, 0.25))
    elif style < 0.45:
        across = _stripes(rng, height, width, side * rng.uniform(0.1, 0.3))
        mix = 0.6 * mix + 0.4 * across * _stripes(rng, height, width, side * rng.uniform(0.1, 0.3))
    elif style < 0.75:
        mix = 0.5 * mix + 0.8 * _ramp(height, width, rng.uniform(0, 2 * np.pi))
    share = np.clip(0.5 + 0.5 * mix, 0, 1)[..., None]
    near, far = _colour(rng), _colour(rng)
    far = near + (far - near) * rng.uniform(0.3, 0.75)  # keeps the ground calmer than the shapes
    grain = _cloud(rng, height, width, rng.uniform(1.5, 4))[..., None]
    return near + (far - near) * share + rng.uniform(2, 14) * grain


def draw_clutter(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Draws lines and bent wires, which are no objects, into the canvas (H, W, 3) float32."""
    height, width = canvas.shape[:2]
    for _ in range(rng.integers(0, 8)):
        start, middle, end = rng.uniform(-0.1, 1.1, (3, 2)) * (width, height)
        if rng.random() < 0.5:
            middle = (start + end) / 2
        t = np.linspace(0, 1, 24)[:, None]
        curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end  # quadratic Bezier
        cv2.polylines(
            canvas,
            [np.rint(curve * 16).astype(np.int32)],
            isClosed=False,
            color=_colour(rng).tolist(),
            thickness=int(rng.integers(1, 2 + max(height, width) // 60)),
            lineType=cv2.LINE_AA,
            shift=4,
        )


def paint_shape(
    rng: np.random.Generator, canvas: np.ndarray, mask: np.ndarray, hue: int | None = None
) -> None:
    """Lays one shaded, textured shape and its soft shadow over the canvas.

    Args:
        rng: Draws colour, texture and light.
        canvas: (H, W, 3) float32 BGR, painted into.
        mask: (H, W) float32 in [0, 1], the part of each pixel inside the shape.
        hue: About which hue, [0, 180); None for any.
    """
    yx = np.argwhere(mask > 0.5)
    extent = int(np.ptp(yx, axis=0).max()) + 1
    margin = 2 + extent // 4  # room for the shadow
    (top, left), (bottom, right) = yx.min(axis=0) - margin, yx.max(axis=0) + margin
    window = slice(max(top, 0), bottom), slice(max(left, 0), right)
    canvas, mask = canvas[window], mask[window]  # views: the rest of the picture stays as it is
    height, width = mask.shape
    inside = mask > 0.5

    ground = canvas[inside].mean(axis=0)
    candidates = [_colour(rng, hue) for _ in range(4)]
    base = max(candidates, key=lambda colour: float(np.abs(colour - ground).sum()))

    pattern = rng.random()
    texture = np.zeros_like(mask)
    if pattern < 0.3:
        texture = 0.22 * _stripes(rng, height, width, extent * rng.uniform(0.12, 0.35))
    elif pattern < 0.7:
        texture = rng.uniform(0.1, 0.3) * _cloud(
            rng, height, width, extent * rng.uniform(0.06, 0.2)
        )
    depth = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 3)
    rim = -0.3 * np.exp(-depth / (0.04 * extent + 0.5))  # darker towards the edge: reads as solid
    angle = rng.uniform(0, 2 * np.pi)
    light = rng.uniform(0.05, 0.25) * _ramp(height, width, angle)
    surface = base * (1 + texture + rim + light)[..., None]

    towards_light = np.cos(angle), np.sin(angle)
    shift = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    shift[:, 2] = np.multiply(towards_light, -0.05 * extent)
    shadow = cv2.warpAffine(mask, shift, (width, height))
    shadow = cv2.GaussianBlur(shadow, (0, 0), 0.04 * extent + 0.5) * rng.uniform(0.1, 0.5)
    canvas *= (1 - shadow)[..., None]
    canvas += mask[..., None] * (np.clip(surface, 0, 255) - canvas)


def photograph(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """What a camera makes of the scene: uneven light, tint, slight blur, noise.

    Args:
        rng: Draws light, blur and noise.
        canvas: (H, W, 3) float32 BGR, kept as it is.

    Returns:
        (H, W, 3) uint8 BGR.
    """
    height, width = canvas.shape[:2]
    ramp = _ramp(height, width, rng.uniform(0, 2 * np.pi))
    light = rng.uniform(0.75, 1.15) * (1 + rng.uniform(0, 0.3) * ramp)
    light = light * (1 + 0.1 * _cloud(rng, height, width, max(height, width) / 2))
    picture: np.ndarray = canvas * light[..., None] * rng.uniform(0.92, 1.08, 3).astype(np.float32)
    sigma = rng.uniform(0, 0.9) * max(height, width) / 200
    if sigma > 0.3:
        picture = cv2.GaussianBlur(picture, (0, 0), sigma)
    noise = rng.standard_normal(picture.shape, np.float32)
    picture = picture + np.float32(rng.uniform(1, 6)) * noise
    return np.rint(np.clip(picture, 0, 255)).astype(np.uint8)


def _colour(rng: np.random.Generator, hue: int | None = None) -> np.ndarray:
    """(3,) float32 BGR in [0, 255], of any hue, or about the given one and not too pale."""
    if hue is None:
        hsv = (rng.integers(180), rng.integers(30, 230), rng.integers(55, 245))
    else:
        turned = (hue + rng.integers(-9, 10)) % 180
        hsv = (turned, rng.integers(90, 230), rng.integers(90, 245))
    pixel = np.array([[hsv]], np.uint8)
    return cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0].astype(np.float32)


def _cloud(rng: np.random.Generator, height: int, width: int, cell: float) -> np.ndarray:
    """Smooth noise (H, W) float32, about in [-1, 1], whose lumps are `cell` pixels wide."""
    grid = (max(2, round(height / cell) + 1), max(2, round(width / cell) + 1))
    coarse = rng.uniform(-1, 1, grid).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _ramp(height: int, width: int, angle: float) -> np.ndarray:
    """Linear gradient (H, W) float32 in [-1, 1], rising in the direction of angle (radians)."""
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    ramp = np.cos(angle) * x + np.sin(angle) * y
    return (ramp / np.abs(ramp).max()).astype(np.float32)


def _stripes(rng: np.random.Generator, height: int, width: int, period: float) -> np.ndarray:
    """Soft stripes (H, W) float32 in [-1, 1], `period` pixels apart, in a random direction."""
    angle, phase = rng.uniform(0, 2 * np.pi, 2)
    y, x = np.ogrid[:height, :width]
    wave = np.sin((np.cos(angle) * x + np.sin(angle) * y) * (2 * np.pi / period) + phase)
    return np.tanh(3 * wave).astype(np.float32)
