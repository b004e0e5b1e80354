"""Draws a YOLO data set whose boxes are known exactly: shaded shapes on cluttered, textured scenes.

It feeds `make run` and the end-to-end tests. Four classes differ by outline only: colour, texture,
light and size say nothing about the class. A picture is a pure function of (seed, index).

Coordinates are continuous: pixel i covers [i, i + 1). Axes: H W picture, N shapes in drawing order.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from yolov5_core.durable import part_of, settle
from yolov5_core.paint import background, draw_clutter, paint_shape, photograph
from yolov5_core.randomness import generator

log = logging.getLogger(__name__)

NAMES = ("disc", "square", "triangle", "star")
_HUES = (0, 110, 60, 25)  # red, blue, green, orange: what most shapes of a class look like
_TYPICAL = 0.95  # of the shapes have about their class's hue, the others any: form matters too
SIZES = (0.2, 0.5)  # longest side of a shape's box / longest side of the picture
MIN_INSIDE = 0.8  # part of a shape's area that lies in the picture
MIN_VISIBLE = 0.65  # part of a shape (in the picture) that later shapes leave uncovered

# Validation pictures come from far beyond any training index: more training data changes none.
_VAL_FIRST_INDEX = 10_000_000
_DRAWING_VERSION = 2  # raise it when the same (seed, index) gives another picture
_MARKER = "synthetic.json"
_HEADER = "# Drawn by yolov5_core.synthetic"
_SUPERSAMPLING = 4  # sub-pixels per pixel side: edges are exact to a quarter pixel


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One picture and the truth about it.

    Attributes:
        image_bgr: (H, W, 3) uint8.
        labels: (N, 5) float32, class and cxcywh normalised to the picture. A box spans the shape's
            full extent clipped to the picture, also where a later shape covers it.
        masks: (N, H, W) float32 in [0, 1], the part of each pixel inside the shape.
    """

    image_bgr: np.ndarray
    labels: np.ndarray
    masks: np.ndarray


def draw_dataset(
    folder: Path,
    *,
    train: int,
    val: int,
    image_size: int,
    seed: int,
    progress: Callable[[int, int], None],
) -> Path:
    """Writes images/{train,val}, labels/{train,val} and data.yaml, unless they are there already.

    Args:
        folder: Where to write; made if missing.
        train: Number of training pictures.
        val: Number of validation pictures; the same ones whatever `train` is.
        image_size: Typical longest side, pixels; pictures vary from 0.75 to 1.4 times that.
        seed: Another seed gives other pictures.
        progress: Called with (pictures done, pictures in all) after each picture.

    Returns:
        The path of data.yaml.

    Raises:
        FileExistsError: The folder holds a data.yaml that was not written here.
    """
    data_yaml = folder / "data.yaml"
    marker = folder / _MARKER
    wanted = json.dumps(
        {
            "drawing_version": _DRAWING_VERSION,
            "train": train,
            "val": val,
            "image_size": image_size,
            "seed": seed,
        },
        indent=1,
    )
    pictures = {
        folder / "images" / split / f"synthetic_{number:05d}.jpg": first_index + number
        for split, count, first_index in (("train", train, 0), ("val", val, _VAL_FIRST_INDEX))
        for number in range(count)
    }
    if _is_complete(marker, wanted, [data_yaml, *pictures]):
        return data_yaml
    _clear(folder)
    for done, (image_path, index) in enumerate(pictures.items(), start=1):
        image, labels = draw_image(seed, index, image_size)
        _write_sample(image_path, image, labels)
        progress(done, len(pictures))
    names = ", ".join(NAMES)
    data_yaml.write_text(
        f"{_HEADER}, seed {seed}\ntrain: images/train\nval: images/val\n"
        f"nc: {len(NAMES)}\nnames: [{names}]\n"
    )
    with part_of(marker) as part:
        part.write_text(_marker_text(wanted, [data_yaml, *pictures]))
        settle(part, marker)  # last: its presence says that everything else is there
    log.info("drew %d pictures in %s", len(pictures), folder)
    return data_yaml


def draw_image(seed: int, index: int, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """One picture with its labels, a pure function of its arguments.

    Args:
        seed: The data set's seed.
        index: Which picture, >= 0.
        image_size: Typical longest side, pixels, >= 32.

    Returns:
        (H, W, 3) uint8 BGR and (N, 5) float32 labels: class, cxcywh normalised to [0, 1].
    """
    scene = draw_scene(seed, index, image_size)
    return scene.image_bgr, scene.labels


def draw_scene(seed: int, index: int, image_size: int) -> Scene:
    """The picture of draw_image with the mask of every shape.

    Raises:
        ValueError: image_size is under 32.
    """
    if image_size < 32:
        raise ValueError(f"image_size={image_size}: shapes need a picture of at least 32 pixels")
    rng = generator(seed, "synthetic", index)
    height, width = _picture_shape(rng, image_size)
    canvas = background(rng, height, width)
    draw_clutter(rng, canvas)
    classes, masks, boxes = _place_shapes(rng, height, width)
    for kind, mask in zip(classes, masks, strict=True):
        paint_shape(rng, canvas, mask, _HUES[kind] if rng.random() < _TYPICAL else None)
    return Scene(
        image_bgr=photograph(rng, canvas),
        labels=_labels(classes, boxes, height, width),
        masks=np.array(masks, np.float32).reshape(-1, height, width),
    )


def outline(kind: int, size: float, angle: float, aspect: float) -> np.ndarray:
    """Corners of a turned shape around the middle of its box.

    Args:
        kind: Class index into NAMES.
        size: Longest side of its box, pixels.
        angle: Radians.
        aspect: Stretch across the shape before it is turned, near 1.

    Returns:
        (K, 2) xy float64 in pixels; its bounding box is centred on the origin.
    """
    corners = (64, 4, 3, 10)[kind]
    turn = np.arange(corners) * (2 * np.pi / corners)
    radius = np.where(np.arange(corners) % 2 == 1, 0.45, 1.0) if kind == 3 else np.ones(corners)
    points = np.stack([radius * np.cos(turn), aspect * radius * np.sin(turn)], axis=1)
    cos, sin = np.cos(angle), np.sin(angle)
    points = points @ np.array([[cos, sin], [-sin, cos]])
    low, high = points.min(axis=0), points.max(axis=0)
    return (points - (low + high) / 2) * (size / (high - low).max())


def rasterise(points: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Fills an outline and measures the box of what it filled.

    Args:
        points: (K, 2) xy pixels; may reach outside the picture, not lie outside as a whole.
        height: Picture height, pixels.
        width: Picture width, pixels.

    Returns:
        (H, W) float32 mask in [0, 1], and its box (4,) float64 xyxy pixels, inside the picture and
        exact to a quarter pixel.
    """
    fine = np.zeros((height * _SUPERSAMPLING, width * _SUPERSAMPLING), np.uint8)
    # OpenCV's integer coordinates are centres of (sub-)pixels: half a sub-pixel off ours.
    corners = np.rint(points * _SUPERSAMPLING - 0.5).astype(np.int32)
    cv2.fillPoly(fine, [corners], 255)
    columns, rows = np.flatnonzero(fine.any(axis=0)), np.flatnonzero(fine.any(axis=1))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / _SUPERSAMPLING
    mask = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
    return mask.astype(np.float32) / 255, box


def _is_complete(marker: Path, wanted: str, needed: list[Path]) -> bool:
    try:
        return marker.read_text() == _marker_text(wanted, needed)
    except FileNotFoundError:
        return False


def _marker_text(wanted: str, needed: list[Path]) -> str:
    """What was drawn and how large it is: a power cut may leave files without what was written."""
    labels = [_label_path(path) for path in needed if path.suffix == ".jpg"]
    return f"{wanted}\n{sum(path.stat().st_size for path in (*needed, *labels))} bytes\n"


def _clear(folder: Path) -> None:
    """Takes away what an earlier drawing left; anything else in the folder stays."""
    data_yaml = folder / "data.yaml"
    if data_yaml.exists() and not data_yaml.read_text().startswith(_HEADER):
        raise FileExistsError(
            f"{data_yaml}: was not drawn by this program, so it is kept; draw into another folder"
        )
    (folder / _MARKER).unlink(missing_ok=True)  # first: from here on the set is incomplete
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            place = folder / kind / split
            place.mkdir(parents=True, exist_ok=True)
            for stale in place.glob("synthetic_*"):
                stale.unlink()


def _label_path(image_path: Path) -> Path:
    split = image_path.parent
    return split.parent.parent / "labels" / split.name / f"{image_path.stem}.txt"


def _write_sample(image_path: Path, image_bgr: np.ndarray, labels: np.ndarray) -> None:
    _, encoded = cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, 92])
    image_path.write_bytes(encoded.tobytes())
    rows = (f"{int(row[0])} " + " ".join(f"{value:.6f}" for value in row[1:]) for row in labels)
    _label_path(image_path).write_text("".join(f"{row}\n" for row in rows))


def _labels(classes: list[int], boxes: list[np.ndarray], height: int, width: int) -> np.ndarray:
    labels = np.zeros((len(classes), 5), np.float32)
    for label, kind, (x1, y1, x2, y2) in zip(labels, classes, boxes, strict=True):
        centre = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height
        label[:] = kind, *centre, (x2 - x1) / width, (y2 - y1) / height
    return labels


def _picture_shape(rng: np.random.Generator, image_size: int) -> tuple[int, int]:
    """Height and width: several sizes and aspects, so that resizing and letterboxing have work."""
    longest = image_size * rng.choice([1.0, 1.0, 1.2, 1.4])
    shortest = longest * rng.choice([1.0, 0.85, 0.75])
    sides = round(shortest), round(longest)
    return sides if rng.random() < 0.7 else sides[::-1]


def _place_shapes(
    rng: np.random.Generator, height: int, width: int
) -> tuple[list[int], list[np.ndarray], list[np.ndarray]]:
    """Classes, masks and boxes; a place that would leave too little of any shape is drawn again."""
    classes: list[int] = []
    masks: list[np.ndarray] = []
    boxes: list[np.ndarray] = []
    visible: list[np.ndarray] = []  # per shape: its mask less what later shapes cover
    count = rng.choice([0, 1, 2, 3, 4, 5, 6], p=[0.04, 0.12, 0.2, 0.24, 0.2, 0.12, 0.08])
    for _ in range(count):
        for _attempt in range(12):
            kind = int(rng.integers(len(NAMES)))
            size = max(height, width) * np.exp(rng.uniform(*np.log(SIZES)))
            points = outline(kind, size, rng.uniform(0, 2 * np.pi), rng.uniform(0.85, 1.15))
            points += rng.uniform(0.0, 1.0, 2) * (width, height)
            full_area = cv2.contourArea(points.astype(np.float32))
            mask, box = rasterise(points, height, width)
            left = [seen * (1 - mask) for seen in visible]
            shows = zip(left, masks, strict=True)
            if mask.sum() >= MIN_INSIDE * full_area and all(
                seen.sum() >= MIN_VISIBLE * whole.sum() for seen, whole in shows
            ):
                classes.append(kind)
                masks.append(mask)
                boxes.append(box)
                visible = [*left, mask]
                break
    return classes, masks, boxes
