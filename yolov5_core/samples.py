"""Samples for training and validation: records of a data set to pictures and labels, numpy only.

A training sample is a pure function of (seed, epoch, index, repeat): any one can be made again
alone. Images are (H, W, 3) uint8, BGR until the end; labels (n, 5) float32 class and boxes.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from yolov5_core.augment import (
    flip_left_right,
    flip_up_down,
    hsv_gains,
    letterbox,
    mixup,
    mixup_ratio,
    resize,
    to_rgb,
)
from yolov5_core.boxes import clip_boxes, denormalise, normalise, resized_hw
from yolov5_core.config import AugmentConfig
from yolov5_core.dataset import NO_SEGMENT, DataError, Record
from yolov5_core.decode import PictureError, decode
from yolov5_core.memory import available_memory
from yolov5_core.mosaic import (
    Corner,
    Tile,
    choose_copies,
    copy_paste,
    corners4,
    corners9,
    draw_mosaic9_crop,
    draw_mosaic_center,
    is_seen,
    mirrored_window,
    new_canvas,
    paint,
    place_labels,
)
from yolov5_core.perspective import (
    draw_perspective,
    plan_warp,
    seen_window,
    warp_image,
    warp_labels,
)
from yolov5_core.randomness import generator

log = logging.getLogger(__name__)

_CLIP_MARGIN = 1e-3  # pixels: keeps every centre inside the last grid cell, spec C.10
_CACHE_SHARE = 0.8  # of the free memory, at most
_REDUCTIONS = (8, 4, 2)  # how many times smaller a JPEG can be decoded
_JPEG_START = b"\xff\xd8\xff"
_QUAD_OFFSETS = np.array([(0, 0), (0, 1), (1, 0), (1, 1)], np.float32)  # x, y of each picture


class SampleKey(NamedTuple):
    """What one training sample is made from, beside the seed."""

    epoch: int
    record: int  # its index
    repeat: int  # how often the record came earlier in the same epoch (image weights)
    height: int  # of the canvas, pixels
    width: int


class _Pictures(NamedTuple):
    """Decoded pictures in one block, which forked processes share: nothing in it is ever written.

    As separate arrays their reference counts would be, and each process would end up with copies.
    """

    pixels: np.ndarray  # (bytes,) uint8
    shapes_hw: np.ndarray  # (n, 2) int64
    starts: np.ndarray  # (n,) int64, of each picture in `pixels`

    def view(self, index: int) -> np.ndarray:
        """One picture (h, w, 3)."""
        height, width = self.shapes_hw[index].tolist()
        start = int(self.starts[index])
        return self.pixels[start : start + 3 * height * width].reshape(height, width, 3)


class ImageReader:
    """Reads images with their longer side at `image_size`, from memory once they were cached."""

    def __init__(self, records: Sequence[Record], image_size: int, *, augmenting: bool) -> None:
        self.records = records
        self.image_size = image_size
        self.augmenting = augmenting
        self._cached: _Pictures | None = None

    def shape_hw(self, record: Record) -> tuple[int, int]:
        """Height and width of the image that `read` gives."""
        return resized_hw((record.height, record.width), self.image_size)

    def read(self, index: int, record: Record) -> np.ndarray:
        """One image.

        Args:
            index: Which.
            record: self.records[index]: records may be made anew each time they are asked for.

        Returns:
            (h, w, 3) uint8 BGR; do not write to it.

        Raises:
            DataError: The file changed or vanished since the data was prepared.
        """
        return self._decode(record) if self._cached is None else self._cached.view(index)

    def _decode(self, record: Record) -> np.ndarray:
        try:
            image = self._decoded(record, record.place.read())
        except (OSError, PictureError) as error:
            raise DataError(f"{record.name}: {error}; start a new run") from error
        return resize(image, self.shape_hw(record), self.augmenting)

    def _decoded(self, record: Record, data: bytes) -> np.ndarray:
        if data.startswith(_JPEG_START) and (factor := self._reduction(record)) > 1:
            image = decode(data, factor)
            if image.shape[:2] == (-(-record.height // factor), -(-record.width // factor)):
                return image
        image = decode(data)
        height, width = image.shape[:2]
        if (height, width) != (record.height, record.width):
            raise DataError(
                f"{record.name}: is {width}x{height} now, was {record.width}x{record.height} "
                "when the data was prepared: start a new run"
            )
        return image

    def _reduction(self, record: Record) -> int:
        """The most times smaller a picture may be decoded without having to be enlarged.

        Sides are rounded up, so that nothing moves by a whole pixel of the result.
        """
        if not self.augmenting:  # evaluation averages areas, spec C.5
            return 1
        longer = max(record.height, record.width)
        return next((f for f in _REDUCTIONS if -(-longer // f) >= self.image_size), 1)

    def cache(self, progress: Callable[[int, int], None], reserve: int = 0) -> None:
        """Decodes every image into memory, unless they would not fit: then it says so.

        Args:
            progress: Called with pictures done and to do.
            reserve: Bytes of memory that training will need and this leaves free.
        """
        count = len(self.records)
        shapes = np.array([self.shape_hw(r) for r in self.records], np.int64).reshape(-1, 2)
        ends = np.cumsum(3 * shapes.prod(1))
        need, free = int(ends[-1]) if count else 0, available_memory() - reserve
        if need > _CACHE_SHARE * free:
            log.warning(
                "cache_images: %.1f GB of pictures do not fit in %.1f GB of free memory; "
                "reading them from disk",
                need / 1e9,
                free / 1e9,
            )
            return
        log.info(
            "cache_images: %d pictures take %.2f GB of %.1f GB free", count, need / 1e9, free / 1e9
        )
        pictures = _Pictures(np.empty(need, np.uint8), shapes, ends - 3 * shapes.prod(1))

        def fill(index: int) -> None:
            pictures.view(index)[:] = self._decode(self.records[index])

        with ThreadPoolExecutor() as pool:
            for done, _ in enumerate(pool.map(fill, range(count)), 1):
                progress(done, count)
        pictures.pixels.setflags(write=False)
        self._cached = pictures


class TrainingSamples:
    """Augmented training samples."""

    def __init__(
        self, reader: ImageReader, augment: AugmentConfig, *, seed: int, mosaic: bool
    ) -> None:
        self.reader = reader
        self.augment = augment
        self.seed = seed
        self.mosaic = mosaic  # off in rectangular training

    def __getitem__(self, key: SampleKey) -> tuple[np.ndarray, np.ndarray]:
        """One sample.

        Returns:
            (H, W, 3) uint8 RGB, labels (n, 5) float32 class, normalised cx, cy, w, h.
        """
        c = self.augment
        rng = generator(self.seed, "augment", key.epoch, key.record, key.repeat)
        if self.mosaic and rng.random() < c.mosaic:
            image, labels = self._mosaic(key.record, rng)
            if rng.random() < c.mixup:
                other = int(rng.integers(len(self.reader.records)))
                image, labels = mixup(image, labels, *self._mosaic(other, rng), mixup_ratio(rng))
        else:
            image, labels = self._single(key, rng)
        height, width = image.shape[:2]
        labels = labels.copy()
        labels[:, 1:] = clip_boxes(labels[:, 1:], width - _CLIP_MARGIN, height - _CLIP_MARGIN)
        image = to_rgb(image, hsv_gains(rng, c))
        if rng.random() < c.flipud:
            image, labels = flip_up_down(image, labels)
        if rng.random() < c.fliplr:
            image, labels = flip_left_right(image, labels)
        labels[:, 1:] = normalise(labels[:, 1:], width, height)
        return image, labels.astype(np.float32)

    def quad(self, keys: Sequence[SampleKey]) -> tuple[np.ndarray, np.ndarray]:
        """One picture of twice the sides: the first sample enlarged, or all four side by side.

        Args:
            keys: Four, of one canvas size; the first decides which of the two, evenly.

        Returns:
            (2 H, 2 W, 3) uint8 RGB, labels (n, 5) float32 class, normalised cx, cy, w, h.

        Source: spec C.10.
        """
        first = keys[0]
        rng = generator(self.seed, "quad", first.epoch, first.record, first.repeat)
        if rng.random() < 0.5:
            image, labels = self[first]
            return cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR), labels
        images, rows = zip(*(self[key] for key in keys), strict=True)
        columns = [np.concatenate(images[i : i + 2], axis=0) for i in (0, 2)]
        for labels, offset in zip(rows, _QUAD_OFFSETS, strict=True):
            labels[:, 1:3] += offset
            labels[:, 1:] /= 2
        return np.concatenate(columns, axis=1), np.concatenate(rows)

    def _mosaic(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A mosaic around a record: (s, s, 4) uint8 BGR and labels in its pixels."""
        size = self.reader.image_size
        indices, records, corners = self._draw_tiles(index, rng)
        tiles = [Tile(self.reader.shape_hw(r), r.labels, r.segments) for r in records]
        labels, segments = place_labels(tiles, corners, 2 * size)
        chosen = choose_copies(rng, self.augment.copy_paste, segments)
        draw = draw_perspective(rng, self.augment)
        warp = plan_warp(draw, (2 * size, 2 * size), (-size // 2, -size // 2))
        window = seen_window(warp)  # no other pixel of the canvas is worked out
        if chosen:
            window = mirrored_window(window, 2 * size)
        canvas = new_canvas(2 * size, window)
        for i, record, tile, corner in zip(indices, records, tiles, corners, strict=True):
            if is_seen(tile.size_hw, corner, window):
                paint(canvas, self.reader.read(i, record), corner, window)
        canvas, labels, segments = copy_paste(canvas, labels, segments, chosen)
        return warp_image(canvas, warp), warp_labels(labels, segments, warp)[0]

    def _draw_tiles(
        self, index: int, rng: np.random.Generator
    ) -> tuple[list[int], list[Record], list[Corner]]:
        """Draws the records of a mosaic, in the order of their places, and where they lie."""
        size, count = self.reader.image_size, len(self.reader.records)
        nine = self.augment.mosaic9 > 0 and rng.random() < self.augment.mosaic9
        center = (0, 0) if nine else draw_mosaic_center(rng, size)
        others = rng.integers(count, size=8 if nine else 3).tolist()
        indices = rng.permutation([index, *others]).tolist()
        records = [self.reader.records[i] for i in indices]
        sizes = [self.reader.shape_hw(record) for record in records]
        if nine:
            return indices, records, corners9(sizes, size, draw_mosaic9_crop(rng, size))
        return indices, records, corners4(sizes, center)

    def _single(self, key: SampleKey, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """One letterboxed picture: (H, W, 4) uint8 BGR and labels in its pixels."""
        record = self.reader.records[key.record]
        boxed, geometry = letterbox(self.reader.read(key.record, record), (key.height, key.width))
        (width, height), (pad_x, pad_y) = geometry.unpadded_wh, geometry.pad
        labels = record.labels.copy()
        labels[:, 1:] = denormalise(labels[:, 1:], width, height, pad_x, pad_y)
        size_wh, pad = np.array((width, height)), np.array((pad_x, pad_y))
        segments = [s * size_wh + pad if len(s) else NO_SEGMENT for s in record.segments]
        warp = plan_warp(draw_perspective(rng, self.augment), (key.height, key.width))
        image = warp_image(cv2.cvtColor(boxed, cv2.COLOR_BGR2BGRA), warp)
        return image, warp_labels(labels, segments, warp)[0]


@dataclass(frozen=True, slots=True)
class ValidationSample:
    """One letterboxed validation picture and how to map its detections back."""

    image: np.ndarray  # (3, H, W) uint8 RGB, channels last in memory; empty inside a batch
    labels: np.ndarray  # (n, 5) float32 class, cx, cy, w, h normalised to the canvas
    index: int  # of the record
    native_hw: tuple[int, int]
    ratio_pad: tuple[tuple[float, float], tuple[float, float]]  # as boxes.unletterbox wants it
    crowd: np.ndarray  # (k, 5) float32 class, cx, cy, w, h normalised to the native picture


def validation_sample(
    reader: ImageReader, index: int, canvas_hw: tuple[int, int]
) -> ValidationSample:
    """The record letterboxed to its batch's canvas, without enlarging.

    Source: spec C.7.
    """
    record = reader.records[index]
    image = reader.read(index, record)
    height, width = image.shape[:2]
    boxed, geometry = letterbox(image, canvas_hw, scaleup=False)
    labels = record.labels.copy()
    boxes = denormalise(
        labels[:, 1:], geometry.ratio[0] * width, geometry.ratio[1] * height, *geometry.pad
    )
    labels[:, 1:] = normalise(boxes, boxed.shape[1], boxed.shape[0])
    return ValidationSample(
        image=to_rgb(boxed, None).transpose(2, 0, 1),
        labels=labels,
        index=index,
        native_hw=(record.height, record.width),
        ratio_pad=((height / record.height, width / record.width), geometry.pad),
        crowd=record.crowd,
    )
