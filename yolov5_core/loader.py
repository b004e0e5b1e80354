"""Batches for training and validation: numpy samples end here, torch tensors begin.

Workers only decide how fast batches come, never what is in them.
"""

import math
import multiprocessing.util
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, overload

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from yolov5_core.allocator import give_back_memory
from yolov5_core.boxes import RectBatches, rectangular_batches
from yolov5_core.dataset import DataError
from yolov5_core.distributed import ALONE, Group
from yolov5_core.index import Records
from yolov5_core.randomness import generator
from yolov5_core.samples import (
    ImageReader,
    SampleKey,
    TrainingSamples,
    ValidationSample,
    validation_sample,
)

_QUAD = 4  # pictures that make one, spec C.10
_DELIVERED = np.zeros((3, 0, 0), np.uint8)  # instead of a picture that the batch has already


class WorkerLostError(RuntimeError):
    """A process that loads pictures died, most often for want of memory."""


class Batch(NamedTuple):
    """One training batch."""

    images: Tensor  # (B, 3, H, W) uint8 RGB, channels last in memory
    targets: Tensor  # (M, 6) float32 image, class, cx, cy, w, h normalised
    indices: list[int]  # record of each image; of a quad the first


class ValidationBatch(NamedTuple):
    """One validation batch."""

    images: Tensor  # (B, 3, H, W) uint8 RGB, channels last in memory
    targets: Tensor  # (M, 6) float32 image, class, cx, cy, w, h normalised to the canvas
    samples: list[ValidationSample]  # without their pictures


_Item = tuple[np.ndarray, np.ndarray, int]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EpochPlan(Sequence[list[SampleKey]]):
    """The keys of every sample of an epoch, batch by batch, made when they are asked for."""

    epoch: int
    order: np.ndarray  # (n,) int64, record of each sample
    repeats: np.ndarray | None  # (n,) int64, how often the record came before; None: never
    shapes_hw: np.ndarray  # (batches, 2) or, if all have the same, (1, 2) int64, pixels
    batch_size: int

    def __len__(self) -> int:
        return math.ceil(len(self.order) / self.batch_size)

    @overload
    def __getitem__(self, number: int) -> list[SampleKey]: ...
    @overload
    def __getitem__(self, number: slice) -> list[list[SampleKey]]: ...
    def __getitem__(self, number: int | slice) -> list[SampleKey] | list[list[SampleKey]]:
        """One batch, or some."""
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        number = range(len(self))[number]
        height, width = self.shapes_hw[min(number, len(self.shapes_hw) - 1)].tolist()
        part = slice(number * self.batch_size, (number + 1) * self.batch_size)
        records = self.order[part].tolist()
        repeats = [0] * len(records) if self.repeats is None else self.repeats[part].tolist()
        return [
            SampleKey(self.epoch, record, repeat, height, width)
            for record, repeat in zip(records, repeats, strict=True)
        ]


class _TrainingData(Dataset[_Item | DataError]):
    """Its items are samples, or, of four keys, quads."""

    def __init__(self, samples: TrainingSamples) -> None:
        self.samples = samples

    def __getitem__(self, keys: Sequence[SampleKey]) -> _Item | DataError:
        try:
            return _item(self.samples, keys)
        except DataError as error:
            return error  # raised by _delivered: torch would bury its message in a traceback


def _item(samples: TrainingSamples, keys: Sequence[SampleKey]) -> _Item:
    image, labels = samples.quad(keys) if len(keys) == _QUAD else samples[keys[0]]
    return image, labels, keys[0].record


class _Rest:
    """What is left of the epoch to come; the loader's workers outlive it."""

    def __init__(self, group: int) -> None:
        self.group = group  # samples that make one picture
        self.plan: Sequence[list[SampleKey]] = ()
        self.skip = 0
        self.ranks = ALONE

    def __iter__(self) -> Iterator[list[list[SampleKey]]]:
        for number in range(self.skip, len(self.plan)):
            yield self.ranks.own(_grouped(self.plan[number], self.group))

    def __len__(self) -> int:
        return max(len(self.plan) - self.skip, 0)


def _grouped(keys: Sequence[SampleKey], group: int) -> list[list[SampleKey]]:
    return [list(keys[i : i + group]) for i in range(0, len(keys), group)]


class TrainingLoader:
    """Training batches, epoch by epoch."""

    def __init__(
        self,
        samples: TrainingSamples,
        *,
        batch_size: int,
        workers: int,
        stride: int,
        pin: bool,
        quad: bool = False,
    ) -> None:
        """Starts no process yet.

        Args:
            samples: Makes them.
            batch_size: Samples, at most; with quad a multiple of 4.
            workers: Processes; 0 makes samples in this one.
            stride: Rectangles are multiples of it, pixels.
            pin: Hand out page-locked tensors.
            quad: Every four samples become one picture of twice the side (spec C.10).

        Raises:
            DataError: Too few pictures for a quad.
        """
        self.samples = samples
        self.count = len(samples.reader.records)
        self.group = _QUAD if quad else 1
        self.batch_size = min(batch_size, self.count) // self.group * self.group
        if self.count < self.group:
            raise DataError(f"{self.count} training pictures: quad needs {self.group} or more")
        self._rect = None if samples.mosaic else self._rectangles(stride)
        self._rest = _Rest(self.group)
        self._loader = DataLoader(
            _TrainingData(samples),
            batch_sampler=self._rest,  # its items are lists of keys, not of numbers
            num_workers=workers,
            collate_fn=partial(_collate_or_error, stride),
            pin_memory=pin,
            persistent_workers=workers > 0,
            worker_init_fn=_start_worker,
            multiprocessing_context=_start_method(workers),
        )

    def join(self, group: Group) -> None:
        """From the next epoch on, delivers a rank's pictures of each batch only, perhaps none."""
        self._rest.ranks = group

    def __len__(self) -> int:
        """Batches an epoch; the last may be smaller, except with quad, which leaves it out."""
        if self.group == 1:
            return math.ceil(self.count / self.batch_size)
        return self.count // self.batch_size

    def _rectangles(self, stride: int) -> RectBatches:
        reader = self.samples.reader
        return rectangular_batches(
            _shapes_wh(reader), self.batch_size, reader.image_size, stride, 0.0
        )

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
        self._rest.plan, self._rest.skip = self.plan(epoch, weights), skip
        yield from _delivered(self._loader)

    def plan(self, epoch: int, weights: np.ndarray | None = None) -> EpochPlan:
        """Keys of every sample of an epoch, batch by batch: a pure function of its arguments."""
        size = self.samples.reader.image_size
        shapes, repeats = np.array([[size, size]]), None
        if self._rect is not None:  # neighbours in shape stay together, so no shuffling
            order, shapes = self._rect.order, self._rect.shapes_hw
        else:
            rng = generator(self.samples.seed, "order", epoch)
            if weights is None:
                order = rng.permutation(self.count)
            else:
                order = rng.choice(self.count, self.count, p=weights / weights.sum())
                repeats = _repeats(order)
        if self.group > 1:
            order = order[: len(self) * self.batch_size]
        return EpochPlan(
            epoch=epoch,
            order=order,
            repeats=repeats,
            shapes_hw=shapes,
            batch_size=self.batch_size,
        )

    def batch(self, keys: Sequence[SampleKey]) -> Batch:
        """One batch made here and now, for a look at it."""
        return _collate([_item(self.samples, group) for group in _grouped(keys, self.group)])


def _repeats(order: np.ndarray) -> np.ndarray:
    """How often each element came before in the array."""
    by_value = np.argsort(order, kind="stable")
    ordered = order[by_value]
    repeats = np.empty(len(order), np.int64)
    repeats[by_value] = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return repeats


def _shapes_wh(reader: ImageReader) -> np.ndarray:
    if isinstance(reader.records, Records):
        return reader.records.shapes_wh()
    shapes = np.empty((len(reader.records), 2), np.int64)
    for i, record in enumerate(reader.records):
        shapes[i] = record.width, record.height
    return shapes


def _start_method(workers: int) -> str | None:
    """How workers begin: on Linux as forks, which share the cached pictures."""
    return "fork" if workers and sys.platform == "linux" else None


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


def _collate_or_error(stride: int, items: Sequence[_Item | DataError]) -> Batch | DataError:
    if not items:  # more ranks than pictures in the batch; the size does not matter
        return Batch(torch.empty(0, 3, stride, stride, dtype=torch.uint8), torch.empty(0, 6), [])
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
    """Pictures (H, W, 3) to (B, 3, H, W), channels last in memory; in a worker, shared memory."""
    stacked: Tensor = default_collate([torch.from_numpy(image) for image in images])
    return stacked.permute(0, 3, 1, 2)


def _targets(labels: Sequence[np.ndarray]) -> Tensor:
    image = np.repeat(np.arange(len(labels)), [len(each) for each in labels])
    rows = np.concatenate((image[:, None], np.concatenate(labels)), axis=1, dtype=np.float32)
    return torch.from_numpy(rows)


class _ValidationData(Dataset[ValidationBatch | DataError]):
    """Its items are whole batches: a batch shares one canvas."""

    def __init__(self, reader: ImageReader, rect: RectBatches, batch_size: int) -> None:
        self.reader = reader
        self.rect = rect
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.rect.shapes_hw)

    def __getitem__(self, number: int) -> ValidationBatch | DataError:
        height, width = self.rect.shapes_hw[number].tolist()
        first = number * self.batch_size
        indices = self.rect.order[first : first + self.batch_size].tolist()
        try:
            samples = [validation_sample(self.reader, i, (height, width)) for i in indices]
        except DataError as error:
            return error
        images = _stack([s.image.transpose(1, 2, 0) for s in samples])
        targets = _targets([s.labels for s in samples])
        return ValidationBatch(images, targets, [replace(s, image=_DELIVERED) for s in samples])


class ValidationBatches:
    """A validation set in batches; iterating raises what TrainingLoader.epoch raises."""

    def __init__(self, loader: DataLoader[ValidationBatch | DataError]) -> None:
        self._loader = loader
        self._begun = loader.num_workers == 0

    def __len__(self) -> int:
        """How many batches."""
        return len(self._loader)

    def __iter__(self) -> Iterator[ValidationBatch]:
        """The batches, from the first on."""
        if not self._begun:  # what is free when workers are forked, they would hold with us
            give_back_memory()
            self._begun = True
        return _delivered(self._loader)


def validation_loader(
    reader: ImageReader, *, batch_size: int, workers: int, stride: int, pin: bool
) -> ValidationBatches:
    """Rectangular validation batches, half a stride of padding around (spec C.7)."""
    rect = rectangular_batches(_shapes_wh(reader), batch_size, reader.image_size, stride, 0.5)
    return ValidationBatches(
        DataLoader(
            _ValidationData(reader, rect, batch_size),
            batch_size=None,
            num_workers=workers,
            pin_memory=pin,
            persistent_workers=workers > 0,
            worker_init_fn=_start_worker,
            multiprocessing_context=_start_method(workers),
        )
    )
