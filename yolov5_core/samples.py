"""Samples for training and validation: records of a data set to pictures and labels, numpy only.

A training sample is a pure function of (seed, epoch, index, repeat): any one can be made again
alone. Images are (H, W, 3) uint8, BGR until the end; labels (n, 5) float32 class and boxes.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from yolov5_core.augment import (
    apply_hsv,
    flip_left_right,
    flip_up_down,
    hsv_gains,
    letterbox,
    mixup,
    mixup_ratio,
    resize_longest,
)
from yolov5_core.boxes import clip_boxes, denormalise, normalise, resized_hw
from yolov5_core.config import AugmentConfig
from yolov5_core.dataset import DataError, Record, read_image
from yolov5_core.mosaic import Tile, choose_copies, copy_paste, draw_mosaic_center, mosaic4
from yolov5_core.perspective import draw_perspective, random_perspective
from yolov5_core.randomness import generator

log = logging.getLogger(__name__)

_CLIP_MARGIN = 1e-3  # pixels: keeps every centre inside the last grid cell, spec C.10
_CACHE_SHARE = 0.8  # of the free memory, at most


class SampleKey(NamedTuple):
    """What one training sample is made from, beside the seed."""

    epoch: int
    record: int  # its index
    repeat: int  # how often the record came earlier in the same epoch (image weights)
    height: int  # of the canvas, pixels
    width: int


class ImageReader:
    """Reads images with their longer side at `image_size`, from memory once they were cached."""

    def __init__(self, records: Sequence[Record], image_size: int, *, augmenting: bool) -> None:
        self.records = records
        self.image_size = image_size
        self.augmenting = augmenting
        self._cache: list[np.ndarray | None] = [None] * len(records)

    def read(self, index: int) -> np.ndarray:
        """The image (h, w, 3) uint8 BGR; do not write to it.

        Raises:
            DataError: The file changed or vanished since the data was prepared.
        """
        cached = self._cache[index]
        return self._decode(index) if cached is None else cached

    def _decode(self, index: int) -> np.ndarray:
        record = self.records[index]
        image = read_image(record.path)
        if image.shape[:2] != (record.height, record.width):
            raise DataError(
                f"{record.path}: is {image.shape[1]}x{image.shape[0]} now, was "
                f"{record.width}x{record.height} when the data was prepared: start a new run"
            )
        return resize_longest(image, self.image_size, self.augmenting)

    def cache(self, progress: Callable[[int, int], None]) -> None:
        """Decodes every image into memory, unless they would not fit: then it says so."""
        shapes = [resized_hw((r.height, r.width), self.image_size) for r in self.records]
        need, free = sum(3 * h * w for h, w in shapes), available_memory()
        if need > _CACHE_SHARE * free:
            log.warning(
                "cache_images: %.1f GB of pictures do not fit in %.1f GB of free memory; "
                "reading them from disk",
                need / 1e9,
                free / 1e9,
            )
            return
        with ThreadPoolExecutor() as pool:
            for done, image in enumerate(pool.map(self._decode, range(len(self.records)))):
                self._cache[done] = image
                progress(done + 1, len(self.records))


def available_memory() -> int:
    """Bytes of memory this machine can still give without swapping."""
    for line in Path("/proc/meminfo").read_text("ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no MemAvailable line: cache_images needs Linux 3.14 or newer")


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
            (3, H, W) uint8 RGB, labels (n, 5) float32 class, normalised cx, cy, w, h.
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
        gains = hsv_gains(rng, c)
        if gains is not None:
            image = apply_hsv(image, gains)
        if rng.random() < c.flipud:
            image, labels = flip_up_down(image, labels)
        if rng.random() < c.fliplr:
            image, labels = flip_left_right(image, labels)
        labels[:, 1:] = normalise(labels[:, 1:], width, height)
        return to_rgb_chw(image), labels.astype(np.float32)

    def _mosaic(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        size = self.reader.image_size
        center = draw_mosaic_center(rng, size)
        others = rng.integers(len(self.reader.records), size=3).tolist()
        tiles = [self._tile(i) for i in rng.permutation([index, *others]).tolist()]
        image, labels, segments = mosaic4(tiles, center, size)
        chosen = choose_copies(rng, self.augment.copy_paste, segments)
        image, labels, segments = copy_paste(image, labels, segments, chosen)
        draw = draw_perspective(rng, self.augment)
        border = (-size // 2, -size // 2)
        image, labels, _ = random_perspective(image, labels, segments, draw, border)
        return image, labels

    def _tile(self, index: int) -> Tile:
        record = self.reader.records[index]
        return Tile(self.reader.read(index), record.labels, record.segments)

    def _single(self, key: SampleKey, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        tile = self._tile(key.record)
        boxed, geometry = letterbox(tile.image, (key.height, key.width))
        (width, height), (pad_x, pad_y) = geometry.unpadded_wh, geometry.pad
        labels = tile.labels_cxcywh.copy()
        labels[:, 1:] = denormalise(labels[:, 1:], width, height, pad_x, pad_y)
        size_wh, pad = np.array((width, height)), np.array((pad_x, pad_y))
        segments = [s * size_wh + pad for s in tile.segments_normalised]
        draw = draw_perspective(rng, self.augment)
        image, labels, _ = random_perspective(boxed, labels, segments, draw)
        return image, labels


@dataclass(frozen=True, slots=True)
class ValidationSample:
    """One letterboxed validation picture and how to map its detections back."""

    image: np.ndarray  # (3, H, W) uint8 RGB
    labels: np.ndarray  # (n, 5) float32 class, cx, cy, w, h normalised to the canvas
    index: int  # of the record
    native_hw: tuple[int, int]
    ratio_pad: tuple[tuple[float, float], tuple[float, float]]  # as boxes.unletterbox wants it


def validation_sample(
    reader: ImageReader, index: int, canvas_hw: tuple[int, int]
) -> ValidationSample:
    """The record letterboxed to its batch's canvas, without enlarging.

    Source: spec C.7.
    """
    record = reader.records[index]
    image = reader.read(index)
    height, width = image.shape[:2]
    boxed, geometry = letterbox(image, canvas_hw, scaleup=False)
    labels = record.labels.copy()
    boxes = denormalise(
        labels[:, 1:], geometry.ratio[0] * width, geometry.ratio[1] * height, *geometry.pad
    )
    labels[:, 1:] = normalise(boxes, boxed.shape[1], boxed.shape[0])
    return ValidationSample(
        image=to_rgb_chw(boxed),
        labels=labels,
        index=index,
        native_hw=(record.height, record.width),
        ratio_pad=((height / record.height, width / record.width), geometry.pad),
    )


def to_rgb_chw(image_bgr: np.ndarray) -> np.ndarray:
    """(H, W, 3) BGR to contiguous (3, H, W) RGB."""
    return np.ascontiguousarray(image_bgr[..., ::-1].transpose(2, 0, 1))
