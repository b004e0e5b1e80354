import hashlib
import os
import signal
import tracemalloc
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from yolov5_core.config import AugmentConfig
from yolov5_core.dataset import NO_BOXES, DataError, Place, Record
from yolov5_core.loader import (
    Batch,
    TrainingLoader,
    ValidationBatch,
    WorkerLostError,
    validation_loader,
)
from yolov5_core.samples import ImageReader, SampleKey, TrainingSamples

Data = tuple[tuple[Record, ...], tuple[Record, ...]]
DEFAULT = AugmentConfig()


def training_loader(
    records: Sequence[Record],
    *,
    workers: int = 0,
    batch_size: int = 5,
    mosaic: bool = True,
    quad: bool = False,
    augment: AugmentConfig = DEFAULT,
) -> TrainingLoader:
    """Mosaics of 64 pixels, or single pictures of 128 in rectangles."""
    reader = ImageReader(records, 64 if mosaic else 128, augmenting=True)
    samples = TrainingSamples(reader, augment, seed=0, mosaic=mosaic)
    return TrainingLoader(
        samples, batch_size=batch_size, workers=workers, stride=32, pin=False, quad=quad
    )


def content(batches: Iterable[Batch]) -> list[tuple[bytes, bytes, list[int]]]:
    return [(b.images.numpy().tobytes(), b.targets.numpy().tobytes(), b.indices) for b in batches]


def digest(batches: Iterable[Batch]) -> str:
    """Of every byte that training sees, in the order it sees them."""
    found = hashlib.sha256()
    for images, targets, indices in content(batches):
        found.update(images + targets + str(indices).encode())
    return found.hexdigest()


FULL = AugmentConfig(degrees=5, shear=2, perspective=0.0005, flipud=0.3, mixup=0.3, mosaic9=0.3)
SINGLES = AugmentConfig(mosaic=0.5)


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize(
    "options",
    [{}, {"augment": FULL}, {"augment": SINGLES}, {"quad": True}, {"mosaic": False}],
    ids=["default", "full", "singles", "quad", "rect"],
)
def test_any_number_of_workers_gives_the_same_bytes(
    tiny_data: Data, options: dict[str, Any], workers: int
):
    alone = training_loader(tiny_data[0], **options)
    helped = training_loader(tiny_data[0], **options, workers=workers)
    for epoch in range(2):
        assert digest(helped.epoch(epoch)) == digest(alone.epoch(epoch))


def test_workers_share_cached_pictures_and_give_the_same_bytes(tiny_data: Data):
    alone, helped = (training_loader(tiny_data[0], workers=workers) for workers in (0, 2))
    helped.samples.reader.cache(lambda *_: None)
    assert digest(helped.epoch(0)) == digest(alone.epoch(0))


@pytest.mark.parametrize("workers", [0, 1])
def test_pictures_lie_channels_last_in_memory(tiny_data: Data, workers: int):
    reader = ImageReader(tiny_data[1], 64, augmenting=False)
    training = training_loader(tiny_data[0], workers=workers).epoch(0)
    validation = validation_loader(reader, batch_size=2, workers=workers, stride=32, pin=False)
    for images in [b.images for b in training] + [b.images for b in validation]:
        assert images.shape[1] == 3
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_every_picture_comes_once_an_epoch_in_an_order_of_its_own(tiny_data: Data):
    loader = training_loader(tiny_data[0])
    orders = [[i for b in loader.epoch(epoch) for i in b.indices] for epoch in range(2)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(12))
    assert orders[0] != orders[1]


def test_the_last_batch_may_be_smaller_and_counts(tiny_data: Data):
    loader = training_loader(tiny_data[0])
    sizes = [len(batch.images) for batch in loader.epoch(0)]
    assert sizes == [5, 5, 2]
    assert len(loader) == 3


def test_a_batch_is_never_larger_than_the_set(tiny_data: Data):
    loader = training_loader(tiny_data[0][:3], batch_size=16)
    assert [len(batch.images) for batch in loader.epoch(0)] == [3]


def test_targets_carry_the_number_of_their_picture_in_the_batch(tiny_data: Data):
    loader = training_loader(tiny_data[0], mosaic=False)
    batch = next(iter(loader.epoch(0)))
    assert batch.images.dtype == torch.uint8
    assert batch.targets.dtype == torch.float32
    counts = Counter(batch.targets[:, 0].int().tolist())
    for place, record in enumerate(batch.indices):
        assert counts[place] <= len(tiny_data[0][record].labels)
    assert set(counts) <= set(range(5))


def test_pictures_without_any_label_make_a_batch_without_targets(tiny_data: Data):
    empty = tuple(r for r in tiny_data[0] if not len(r.labels))
    batch = next(iter(training_loader(empty).epoch(0)))
    assert batch.targets.shape == (0, 6)


def test_the_rest_of_an_epoch_is_what_the_whole_epoch_would_have_gone_on_with(tiny_data: Data):
    loader = training_loader(tiny_data[0])
    assert content(loader.epoch(3, skip=1)) == content(loader.epoch(3))[1:]


def test_a_batch_made_at_once_is_the_one_training_will_see(tiny_data: Data):
    loader = training_loader(tiny_data[0])
    assert content([loader.batch(loader.plan(0)[1])]) == content(loader.epoch(0))[1:2]


def test_weights_draw_pictures_again_with_other_augmentation(tiny_data: Data):
    loader = training_loader(tiny_data[0])
    weights = np.zeros(12)
    weights[[2, 7]] = (3, 1)
    keys = [key for batch in loader.plan(0, weights) for key in batch]
    assert len(keys) == 12
    assert Counter(k.record for k in keys).keys() == {2, 7}
    assert len(set(keys)) == 12  # each repeat is numbered
    repeats = [k.repeat for k in keys if k.record == 7]
    assert repeats == list(range(len(repeats)))
    images = {loader.samples[key][0].tobytes() for key in keys}
    assert len(images) == 12


def test_weights_are_chances(tiny_data: Data):
    loader = training_loader(tiny_data[0])
    weights = np.ones(12)
    weights[0] = 11
    drawn = [k.record for epoch in range(100) for b in loader.plan(epoch, weights) for k in b]
    assert drawn.count(0) / len(drawn) == pytest.approx(0.5, abs=0.05)


def test_rectangular_batches_share_a_canvas_and_keep_like_shapes_together(tiny_data: Data):
    loader = training_loader(tiny_data[0], mosaic=False, batch_size=3)
    plan = loader.plan(0)
    later = [[k._replace(epoch=1) for k in batch] for batch in plan]
    assert list(loader.plan(1)) == later
    shapes = [{(k.height, k.width) for k in batch} for batch in plan]
    assert all(len(shape) == 1 for shape in shapes)
    assert any(shape != {(128, 128)} for shape in shapes)
    assert all(side % 32 == 0 for ((h, w),) in shapes for side in (h, w))
    aspects = [
        tiny_data[0][k.record].height / tiny_data[0][k.record].width for b in plan for k in b
    ]
    assert aspects == sorted(aspects)
    for batch, ((height, width),) in zip(loader.epoch(0), shapes, strict=True):
        assert batch.images.shape[2:] == (height, width)


def test_a_plan_is_plain_keys(tiny_data: Data):
    first = training_loader(tiny_data[0]).plan(7)[0][0]
    assert isinstance(first, SampleKey)
    assert (first.epoch, first.repeat, first.height, first.width) == (7, 0, 64, 64)


def test_a_plan_is_read_like_a_list(tiny_data: Data):
    plan = training_loader(tiny_data[0]).plan(0)
    batches = list(plan)
    assert len(plan) == len(batches) == 3
    assert plan[-1] == batches[2]
    assert plan[1:] == batches[1:]
    with pytest.raises(IndexError):
        _ = plan[3]


class Repeated(Sequence[Record]):
    """Records again and again, without a list of them."""

    def __init__(self, records: Sequence[Record], count: int) -> None:
        self.records, self.count = records, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:  # type: ignore[override]
        return self.records[index % len(self.records)]


def test_a_million_pictures_take_a_loader_a_few_bytes_each(tiny_data: Data):
    tracemalloc.start()
    try:
        loader = training_loader(Repeated(tiny_data[0], 1_000_000))
        batches = loader.epoch(0)
        for _ in range(3):
            _ = next(batches)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000  # 8 bytes each for the order of the epoch


# ---- quads -----------------------------------------------------------------------------------


def test_quads_are_a_quarter_of_the_pictures_at_twice_the_side(tiny_data: Data):
    loader = training_loader(tiny_data[0], batch_size=8, quad=True)
    batches = list(loader.epoch(0))
    assert len(loader) == len(batches) == 1  # 4 of 12 are left out
    images, targets, indices = batches[0]
    assert images.shape == (2, 3, 128, 128)
    assert set(targets[:, 0].tolist()) <= {0.0, 1.0}
    assert indices == [k.record for k in loader.plan(0)[0]][::4]


def test_every_quad_is_the_one_of_its_four_keys(tiny_data: Data):
    loader = training_loader(tiny_data[0], batch_size=4, quad=True)
    for keys, batch in zip(loader.plan(1), loader.epoch(1), strict=True):
        image, labels = loader.samples.quad(keys)
        np.testing.assert_array_equal(batch.images[0].permute(1, 2, 0), image)
        np.testing.assert_array_equal(batch.targets[:, 1:], labels)
        assert (batch.targets[:, 0] == 0).all()


def test_both_kinds_of_quad_come_in_an_epoch_and_change_between_epochs(tiny_data: Data):
    loader = training_loader(tiny_data[0], batch_size=4, quad=True)
    counts = []
    for epoch in range(8):
        for keys in loader.plan(epoch):
            labels = loader.samples.quad(keys)[1]
            first = loader.samples[keys[0]][1]
            counts.append(np.array_equal(labels, first))
    assert 6 <= sum(counts) <= 18  # of 24


def test_rectangular_quads_have_rectangles_of_twice_the_sides(tiny_data: Data):
    loader = training_loader(tiny_data[0], batch_size=4, quad=True, mosaic=False)
    for keys, batch in zip(loader.plan(0), loader.epoch(0), strict=True):
        assert batch.images.shape == (1, 3, 2 * keys[0].height, 2 * keys[0].width)


def test_a_quad_needs_four_pictures(tiny_data: Data):
    assert training_loader(tiny_data[0][:5], batch_size=8, quad=True).batch_size == 4
    with pytest.raises(DataError, match="3 training pictures: quad needs 4 or more"):
        training_loader(tiny_data[0][:3], batch_size=4, quad=True)


# ---- validation ------------------------------------------------------------------------------


def seen(batches: Iterable[ValidationBatch]) -> list[tuple[bytes, bytes, list[int]]]:
    return [
        (b.images.numpy().tobytes(), b.targets.numpy().tobytes(), [s.index for s in b.samples])
        for b in batches
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_validation_sees_every_picture_once_each_time(tiny_data: Data, workers: int):
    reader = ImageReader(tiny_data[1], 64, augmenting=False)
    alone, loader = (
        validation_loader(reader, batch_size=3, workers=count, stride=32, pin=False)
        for count in (0, workers)
    )
    assert len(loader) == 2
    first = seen(loader)
    assert first == seen(loader) == seen(alone)
    assert sorted(i for _, _, indices in first for i in indices) == [0, 1, 2, 3]


@pytest.mark.parametrize(("workers", "times"), [(0, 0), (1, 1)])
def test_free_memory_is_given_back_once_before_workers_are_forked(
    tiny_data: Data, workers: int, times: int, monkeypatch: pytest.MonkeyPatch
):
    given: list[bool] = []
    monkeypatch.setattr("yolov5_core.loader.give_back_memory", lambda: given.append(True))
    reader = ImageReader(tiny_data[1], 64, augmenting=False)
    batches = validation_loader(reader, batch_size=4, workers=workers, stride=32, pin=False)
    for _ in range(2):
        iter(batches)  # a worker would begin with the first batch
    assert len(given) == times


def test_a_validation_canvas_is_half_a_stride_larger_rounded_up(tiny_data: Data):
    reader = ImageReader(tiny_data[1], 64, augmenting=False)
    for batch in validation_loader(reader, batch_size=4, workers=0, stride=32, pin=False):
        assert batch.images.shape[2:] == (96, 96)  # ceil(64 / 32 + 0.5) * 32
        assert len(batch.samples) == 4


# ---- faults ----------------------------------------------------------------------------------


@pytest.fixture
def own_records(tmp_path: Path) -> tuple[Record, ...]:
    """Three pictures that a test may damage."""
    records = []
    for number in range(3):
        path = tmp_path / f"picture{number}.png"
        assert cv2.imwrite(str(path), np.full((64, 64, 3), number, np.uint8))
        place = Place(path, 0, path.stat().st_size)
        record = Record(
            name=path.name, place=place, width=64, height=64, labels=NO_BOXES, segments=()
        )
        records.append(record)
    return tuple(records)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_vanished_picture_is_one_sentence_from_any_process(
    own_records: tuple[Record, ...], workers: int
):
    own_records[1].place.file.unlink()
    training = training_loader(own_records, workers=workers)
    reader = ImageReader(own_records, 64, augmenting=False)
    validation = validation_loader(reader, batch_size=2, workers=workers, stride=32, pin=False)
    for batches in (training.epoch(0), validation):
        said = error_of(batches)
        assert said.startswith(f"{own_records[1].name}: ")
        assert "\n" not in said  # no traceback of another process


def error_of(batches: Iterable[Batch] | Iterable[ValidationBatch]) -> str:
    # not pytest.raises: it keeps the loader in a cycle, and garbage collection stops workers slowly
    try:
        list(batches)
    except DataError as error:
        return str(error)
    return ""


class Killer(ImageReader):
    """Takes its process with it, as the kernel does when memory runs out."""

    def read(self, index: int, record: Record) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().read(index, record)


def test_a_lost_worker_is_told_from_a_bug(own_records: tuple[Record, ...]):
    reader = Killer(own_records, 64, augmenting=False)
    loader = validation_loader(reader, batch_size=2, workers=1, stride=32, pin=False)
    with pytest.raises(WorkerLostError, match="resume the run, with fewer workers"):
        list(loader)
