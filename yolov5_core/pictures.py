"""Grids of pictures with their boxes, and the colours of the classes; OpenCV only.

Pictures are RGB, boxes xyxy pixels of the picture they belong to. Axes: B pictures, N boxes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

MAX_PICTURES = 16  # in one grid
TITLE_LENGTH = 40  # characters of a file name shown over its picture

# Told apart by hue and by lightness, bright enough to stand out on photographs; RGB.
_PALETTE = (
    (230, 57, 70),
    (29, 133, 237),
    (46, 174, 79),
    (255, 159, 28),
    (148, 82, 214),
    (0, 181, 190),
    (240, 98, 176),
    (139, 105, 76),
    (154, 205, 50),
    (63, 81, 181),
    (255, 209, 59),
    (0, 121, 107),
    (255, 127, 102),
    (120, 144, 156),
    (186, 52, 145),
    (92, 201, 245),
    (124, 124, 20),
    (199, 160, 232),
    (178, 34, 34),
    (84, 222, 160),
)
_LONGEST_SIDE = 2400  # pixels of the whole grid, about
_CELL_SIDE = 360  # pixels; smaller pictures are enlarged so that labels can be read
_TITLE_HEIGHT = 22  # pixels
_GAP = 4  # pixels between cells
_GROUND = (38, 42, 48)  # RGB behind and between pictures
_TITLE_INK = (235, 235, 235)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_TAG_SIZE = 0.42  # font scale of the text on a box
_JPEG_QUALITY = 90

_Strip = tuple[int, int, int, int]  # xyxy pixels of a text's ground, in its cell


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """How a box is drawn that stands for more than its class."""

    colour: tuple[int, int, int]  # RGB
    meaning: str  # in the legend below the grid
    tagged: bool = True  # whether the class is written on the box


@dataclass(frozen=True, kw_only=True, slots=True)
class Boxes:
    """The boxes of one picture: labels, or predictions with their scores."""

    xyxy: np.ndarray  # (N, 4) pixels
    classes: np.ndarray  # (N,) class indices, any number type
    scores: np.ndarray | None = None  # (N,) in [0, 1], NaN for a label; None where all are labels
    marks: Sequence[Mark] | None = None  # N; None: the colours of the classes


def colour(class_index: int) -> tuple[int, int, int]:
    """The RGB colour of a class, the same in every picture and plot; 20 colours, then again."""
    return _PALETTE[class_index % len(_PALETTE)]


def draw_batch(
    images: np.ndarray,
    boxes: Sequence[Boxes],
    titles: Sequence[str],
    names: Sequence[str],
    path: Path,
) -> Path:
    """Writes the first pictures of a batch as one grid, with boxes, class names and titles.

    The grid has n = ceil(sqrt(pictures)) cells per side and is filled column by column. Below it is
    a legend if boxes have marks.

    Args:
        images: (B, 3, H, W) uint8 RGB; never changed. At most MAX_PICTURES are drawn.
        boxes: B records.
        titles: B file names, cut to TITLE_LENGTH characters.
        names: Class names; a class beyond them is shown by its number.
        path: A .jpg or .png, replaced as a whole.

    Returns:
        The path.

    Raises:
        ValueError: images are not (B, 3, H, W) uint8.

    Source: spec E.8.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8:
        raise ValueError(
            f"draw_batch: images are {images.dtype} {images.shape}; pass (B, 3, H, W) uint8 RGB"
        )
    count = min(len(images), MAX_PICTURES)
    per_side = max(1, math.ceil(math.sqrt(count)))
    height, width = images.shape[2:]
    longest = max(height, width, 1)
    scale = min(max(longest, _CELL_SIDE), _LONGEST_SIDE / per_side) / longest
    cell_h = max(1, round(height * scale)) + _TITLE_HEIGHT + _GAP
    cell_w = max(1, round(width * scale)) + _GAP
    columns = max(1, math.ceil(count / per_side))  # the last ones may stay empty: left out
    grid = np.full((per_side * cell_h + _GAP, columns * cell_w + _GAP, 3), _GROUND, np.uint8)
    for i in range(count):
        column, row = divmod(i, per_side)
        cell = draw_picture(images[i], boxes[i], names, scale)
        top, left = row * cell_h + _GAP, column * cell_w + _GAP
        _write_text(grid, titles[i][:TITLE_LENGTH], (left, top), cell_w - _GAP, _TITLE_INK)
        top += _TITLE_HEIGHT
        grid[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    grid = _with_legend(grid, [mark for b in boxes[:count] for mark in b.marks or ()])
    return write_encoded(path, encode(grid, path.suffix))


def encode(image_rgb: np.ndarray, suffix: str) -> bytes:
    """The bytes of an image file: (H, W, 3) uint8 RGB as ".jpg" or ".png"."""
    bgr = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(suffix, bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return data.tobytes()


def write_encoded(path: Path, data: bytes) -> Path:
    """Writes a file at once, by renaming: readers see the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_bytes(data)
    return temporary.replace(path)


def _with_legend(grid: np.ndarray, marks: Sequence[Mark]) -> np.ndarray:
    """The grid and, for what its marks mean, a strip below."""
    colours = {mark.meaning: mark.colour for mark in marks}
    if not colours:
        return grid
    strip = np.full((_TITLE_HEIGHT + _GAP, grid.shape[1], 3), _GROUND, np.uint8)
    left = _GAP
    for meaning, fill in sorted(colours.items()):
        cv2.rectangle(strip, (left, 5), (left + 14, _TITLE_HEIGHT - 5), fill, cv2.FILLED)
        origin = left + 20, _TITLE_HEIGHT - 7
        cv2.putText(strip, meaning, origin, _FONT, 0.45, _TITLE_INK, 1, cv2.LINE_AA)
        left += 40 + cv2.getTextSize(meaning, _FONT, 0.45, 1)[0][0]
    return np.concatenate((grid, strip))


def draw_picture(image: np.ndarray, boxes: Boxes, names: Sequence[str], scale: float) -> np.ndarray:
    """One picture (3, H, W) at its size in the grid, with its boxes: (h, w, 3)."""
    picture = np.ascontiguousarray(image.transpose(1, 2, 0))
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    cell = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    corners = np.rint(np.asarray(boxes.xyxy, np.float64).reshape(-1, 4) * scale)
    corners = np.clip(corners, 0, (*size, *size)).astype(int)
    styles = [_style(boxes, names, position) for position in range(len(corners))]
    for (x1, y1, x2, y2), (ink, _) in zip(corners.tolist(), styles, strict=True):
        cv2.rectangle(cell, (x1, y1), (x2, y2), ink, 2, cv2.LINE_AA)
    taken: list[_Strip] = []
    for where, (ink, text) in zip(corners, styles, strict=True):  # after all boxes: none crosses it
        if text:
            taken.append(_draw_tag(cell, text, where, ink, taken))
    return cell


def _style(boxes: Boxes, names: Sequence[str], position: int) -> tuple[tuple[int, int, int], str]:
    """Colour and text of a box."""
    index = int(boxes.classes[position])
    text = names[index] if index < len(names) else str(index)
    if boxes.scores is not None and not np.isnan(boxes.scores[position]):
        text += f" {boxes.scores[position]:.1f}"
    if boxes.marks is None:
        return colour(index), text
    mark = boxes.marks[position]
    return mark.colour, text if mark.tagged else ""


def _draw_tag(
    cell: np.ndarray,
    text: str,
    corners: np.ndarray,
    fill: tuple[int, int, int],
    taken: Sequence[_Strip],
) -> _Strip:
    """Text on a filled strip at a box, where no earlier strip lies if there is such a place."""
    size = _TAG_SIZE * max(1.0, max(cell.shape[:2]) / 450)
    (text_w, text_h), baseline = cv2.getTextSize(text, _FONT, size, 1)
    width, height = text_w + 6, text_h + baseline + 3
    x1, y1, x2, y2 = corners.tolist()
    corners_to_try = [(x1 - 1, y1 - height), (x1 - 1, y1), (x2 - width, y1 - height), (x1 - 1, y2)]
    strips = []
    for wished_left, top in corners_to_try:
        left = min(max(wished_left, 0), max(cell.shape[1] - width, 0))
        if 0 <= top <= cell.shape[0] - height:
            strips.append((left, top, left + width, top + height))
    strips = strips or [(max(x1, 0), max(y1, 0), max(x1, 0) + width, max(y1, 0) + height)]
    free = (strip for strip in strips if not any(_overlap(strip, other) for other in taken))
    left, top, right, bottom = strip = next(free, strips[0])
    cv2.rectangle(cell, (left, top), (right - 1, bottom - 1), fill, cv2.FILLED)
    luma = 0.299 * fill[0] + 0.587 * fill[1] + 0.114 * fill[2]
    ink = (20, 20, 20) if luma > 140 else (255, 255, 255)
    cv2.putText(cell, text, (left + 3, top + text_h + 2), _FONT, size, ink, 1, cv2.LINE_AA)
    return strip


def _overlap(a: _Strip, b: _Strip) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _write_text(
    grid: np.ndarray, text: str, corner: tuple[int, int], room: int, ink: tuple[int, int, int]
) -> None:
    """A title over its cell, smaller where the cell is narrow."""
    (text_w, _), _ = cv2.getTextSize(text, _FONT, 0.45, 1)
    size = 0.45 * min(1.0, (room - 6) / max(text_w, 1))
    origin = corner[0] + 3, corner[1] + _TITLE_HEIGHT - 7
    cv2.putText(grid, text, origin, _FONT, size, ink, 1, cv2.LINE_AA)
