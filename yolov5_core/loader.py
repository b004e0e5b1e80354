"""Batches for training and validation: numpy samples end here, torch tensors begin.

Workers only decide how fast batches come, never what is in them.
"""

import math
import multiprocessing.util
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from yolov5_core.boxes import RectBatches, rectangular_batches
from yolov5_core.dataset import DataError
from yolov5_core.randomness import generator
from yolov5_core.samples import (
    ImageReader,
    SampleKey,
    TrainingSamples,
    ValidationSample,
    validation_sample,
)


class WorkerLostError(RuntimeError):
    """A process that loads pictures died, most often for want of memory."""


class Batch(NamedTuple):
    """One training batch."""

    images: Tensor  # (B, 3, H, W) uint8 RGB
    targets: Tensor  # (M, 6) float32 image, class, cx, cy, w, h normalised
    indices: list[int]  # record of each image


class ValidationBatch(NamedTuple):
    """One validation batch."""

    images: Tensor  # (B, 3, H, W) uint8 RGB
    targets: Tensor  # (M, 6) float32 image, class, cx, cy, w, h normalised to the canvas
    samples: list[ValidationSample]


_Item = tuple[np.ndarray, np.ndarray, int]


class _TrainingData(Dataset[_Item | DataError]):
    def __init__(self, samples: TrainingSamples) -> None:
        self.samples = samples

    def __getitem__(self, key: SampleKey) -> _Item | DataError:
        try:
            return (*self.samples[key], key.record)
        except DataError as error:
            return error  # raised by _delivered: torch would bury its message in a traceback


class _Plan:
    """The batches of the epoch to come; the loader's workers outlive it."""

    def __init__(self) -> None:
        self.batches: list[list[SampleKey]] = []

    def __iter__(self) -> Iterator[list[SampleKey]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class TrainingLoader:
    """Training batches, epoch by epoch."""

    def __init__(
        self, samples: TrainingSamples, *, batch_size: int, workers: int, stride: int, pin: bool
    ) -> None:
        self.samples = samples
        self.count = len(samples.reader.records)
        self.batch_size = min(batch_size, self.count)
        self._rect = None if samples.mosaic else self._rectangles(stride)
        self._plan = _Plan()
        self._loader = DataLoader(
            _TrainingData(samples),
            batch_sampler=self._plan,  # its items are keys, not numbers
            num_workers=workers,
            collate_fn=_collate_or_error,
            pin_memory=pin,
            persistent_workers=workers > 0,
            worker_init_fn=_start_worker,
        )

    def __len__(self) -> int:
        """Batches an epoch; the last may be smaller."""
        return math.ceil(self.count / self.batch_size)

    def _rectangles(self, stride: int) -> RectBatches:
        reader = self.samples.reader
        shapes = np.array([(r.width, r.height) for r in reader.records])
        return rectangular_batches(shapes, self.batch_size, reader.image_size, stride, 0.0)

    def epoch(
        self, epoch: int, weights: np.ndarray | None = None, skip: int = 0
    ) -> Iterator[Batch]:
        """The epoch's batches, from batch `skip` on.

        Args:
            epoch: From 0.
            weights: (n,) chance of each image to be drawn, with replacement; None: each once.
            skip: Batches already trained.

        Raises:
            DataError: A picture changed or vanished since the data was prepared.
            WorkerLostError: A worker died.
        """
        self._plan.batches = self.plan(epoch, weights)[skip:]
        yield from _delivered(self._loader)

    def plan(self, epoch: int, weights: np.ndarray | None = None) -> list[list[SampleKey]]:
        """Keys of every sample of an epoch, batch by batch: a pure function of its arguments."""
        size = self.samples.reader.image_size
        if self._rect is not None:  # neighbours in shape stay together, so no shuffling
            order = self._rect.order.tolist()
            shapes = self._rect.shapes_hw[self._rect.batch_of_image].tolist()
        else:
            order = self._drawn_order(epoch, weights)
            shapes = [(size, size)] * self.count
        seen: Counter[int] = Counter()
        keys = []
        for index, (height, width) in zip(order, shapes, strict=True):
            keys.append(SampleKey(epoch, index, seen[index], height, width))
            seen[index] += 1
        return [keys[i : i + self.batch_size] for i in range(0, self.count, self.batch_size)]

    def _drawn_order(self, epoch: int, weights: np.ndarray | None) -> list[int]:
        rng = generator(self.samples.seed, "order", epoch)
        if weights is None:
            return rng.permutation(self.count).tolist()
        return rng.choice(self.count, self.count, p=weights / weights.sum()).tolist()

    def batch(self, keys: Sequence[SampleKey]) -> Batch:
        """One batch made here and now, for a look at it."""
        return _collate([(*self.samples[key], key.record) for key in keys])


def _delivered(loader: "DataLoader[Any]") -> Iterator[Any]:
    try:
        for batch in loader:
            if isinstance(batch, DataError):
                raise DataError(str(batch))  # a new one: `batch` would hold itself by its traceback
            yield batch
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise WorkerLostError(
            f"a process that loads pictures died ({str(error).splitlines()[0]}); resume the run, "
            "with fewer workers or more memory"
        ) from error


def _start_worker(_: int) -> None:
    # Leave as soon as our own work is over: the process we were forked from may have registered
    # hooks that wait for threads which a fork does not have, and fail (Prefect does).
    multiprocessing.util.Finalize(None, os._exit, args=(0,), exitpriority=-100)
    cv2.setNumThreads(0)  # the workers are the threads; OpenCV's pool does not survive a fork
    torch.set_num_threads(1)


def _collate_or_error(items: Sequence[_Item | DataError]) -> Batch | DataError:
    good: list[_Item] = []
    for item in items:
        if isinstance(item, DataError):
            return item
        good.append(item)
    return _collate(good)


def _collate(items: Sequence[_Item]) -> Batch:
    images, labels, indices = zip(*items, strict=True)
    return Batch(_stack(images), _targets(labels), list(indices))


def _stack(images: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(images))


def _targets(labels: Sequence[np.ndarray]) -> Tensor:
    rows = [np.insert(each, 0, i, axis=1) for i, each in enumerate(labels)]
    return torch.from_numpy(np.concatenate(rows).astype(np.float32))


class _ValidationData(Dataset[ValidationBatch | DataError]):
    """Its items are whole batches: a batch shares one canvas."""

    def __init__(self, reader: ImageReader, rect: RectBatches) -> None:
        self.reader = reader
        self.rect = rect

    def __len__(self) -> int:
        return len(self.rect.shapes_hw)

    def __getitem__(self, number: int) -> ValidationBatch | DataError:
        height, width = self.rect.shapes_hw[number].tolist()
        indices = self.rect.order[self.rect.batch_of_image == number].tolist()
        try:
            samples = [validation_sample(self.reader, i, (height, width)) for i in indices]
        except DataError as error:
            return error
        images = _stack([s.image for s in samples])
        return ValidationBatch(images, _targets([s.labels for s in samples]), samples)


class ValidationBatches:
    """A validation set in batches; iterating raises what TrainingLoader.epoch raises."""

    def __init__(self, loader: DataLoader[ValidationBatch | DataError]) -> None:
        self._loader = loader

    def __len__(self) -> int:
        """How many batches."""
        return len(self._loader)

    def __iter__(self) -> Iterator[ValidationBatch]:
        """The batches, from the first on."""
        return _delivered(self._loader)


def validation_loader(
    reader: ImageReader, *, batch_size: int, workers: int, stride: int, pin: bool
) -> ValidationBatches:
    """Rectangular validation batches, half a stride of padding around (spec C.7)."""
    shapes = np.array([(r.width, r.height) for r in reader.records])
    rect = rectangular_batches(shapes, batch_size, reader.image_size, stride, 0.5)
    return ValidationBatches(
        DataLoader(
            _ValidationData(reader, rect),
            batch_size=None,
            num_workers=workers,
            pin_memory=pin,
            persistent_workers=workers > 0,
            worker_init_fn=_start_worker,
        )
    )
