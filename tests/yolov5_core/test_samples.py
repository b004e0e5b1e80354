import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yolov5_core.config import AugmentConfig
from yolov5_core.dataset import DataError, Record
from yolov5_core.samples import (
    ImageReader,
    SampleKey,
    TrainingSamples,
    available_memory,
    to_rgb_chw,
    validation_sample,
)

Data = tuple[tuple[Record, ...], tuple[Record, ...]]
OFF = AugmentConfig(hsv_h=0, hsv_s=0, hsv_v=0, translate=0, scale=0, fliplr=0, mosaic=0)


def quiet(*_: int) -> None:
    """Progress nobody watches."""


def training_samples(data: Data, *, mosaic: bool = True, **augment: Any) -> TrainingSamples:
    reader = ImageReader(data[0], 64, augmenting=True)
    return TrainingSamples(reader, AugmentConfig(**augment), seed=0, mosaic=mosaic)


def key(record: int, epoch: int = 0, repeat: int = 0) -> SampleKey:
    return SampleKey(epoch, record, repeat, 64, 64)


def two_colours(folder: Path, width: int = 64, height: int = 32) -> Record:
    """Left half blue, right half red, the red half labelled."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2, 0] = 255
    image[:, width // 2 :, 2] = 255
    path = folder / "two.png"
    assert cv2.imwrite(str(path), image)
    labels = np.array([[1, 0.75, 0.5, 0.5, 1.0]], np.float32)
    return Record(
        path=path, width=width, height=height, labels=labels, segments=(np.zeros((0, 2)),)
    )


augmentations = st.fixed_dictionaries(
    {
        "degrees": st.sampled_from([0.0, 30.0]),
        "shear": st.sampled_from([0.0, 10.0]),
        "perspective": st.sampled_from([0.0, 0.001]),
        "flipud": st.sampled_from([0.0, 0.5]),
        "mixup": st.sampled_from([0.0, 1.0]),
        "mosaic": st.sampled_from([0.0, 0.5, 1.0]),
        "scale": st.sampled_from([0.0, 0.9]),
    }
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(augment=augmentations, record=st.integers(0, 11), epoch=st.integers(0, 300))
def test_labels_lie_inside_the_picture_and_have_a_size(
    tiny_data: Data, augment: dict[str, float], record: int, epoch: int
):
    image, labels = training_samples(tiny_data, **augment)[key(record, epoch)]
    assert (image.shape, image.dtype) == ((3, 64, 64), np.uint8)
    assert image.flags["C_CONTIGUOUS"]
    assert labels.dtype == np.float32
    assert labels.shape[1] == 5
    boxes = labels[:, 1:]
    assert ((boxes >= 0) & (boxes <= 1)).all()
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    assert ((low > -1e-6) & (high < 1 + 1e-6)).all()
    assert (boxes[:, 2:] > 0).all()


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(record=st.integers(0, 11), epoch=st.integers(0, 300), repeat=st.integers(0, 3))
def test_a_sample_made_alone_is_the_same_bytes(
    tiny_data: Data, record: int, epoch: int, repeat: int
):
    wanted = key(record, epoch, repeat)
    samples = training_samples(tiny_data, mixup=0.5, degrees=10.0)
    for other in range(3):
        _ = samples[key(other, epoch)]
    image, labels = samples[wanted]
    alone, labels_alone = training_samples(tiny_data, mixup=0.5, degrees=10.0)[wanted]
    assert image.tobytes() == alone.tobytes()
    assert labels.tobytes() == labels_alone.tobytes()


def test_epochs_and_repeats_of_a_picture_differ(tiny_data: Data):
    samples = training_samples(tiny_data)
    keys = [key(0), key(0, epoch=1), key(0, repeat=1)]
    assert len({samples[each][0].tobytes() for each in keys}) == 3


def test_the_requested_picture_is_in_its_mosaic(tmp_path: Path, tiny_data: Data):
    marked = replace(two_colours(tmp_path), labels=np.array([[9, 0.5, 0.5, 1, 1]], np.float32))
    records = (marked, *tiny_data[0])
    reader = ImageReader(records, 64, augmenting=True)
    samples = TrainingSamples(reader, AugmentConfig(scale=0, translate=0), seed=0, mosaic=True)
    seen = [9 in samples[key(0, epoch)][1][:, 0] for epoch in range(20)]
    # the warp crops the canvas: a tile may fall outside, but not often
    assert sum(seen) >= 15
    assert sum(9 in samples[key(1, epoch)][1][:, 0] for epoch in range(20)) < 15


def test_without_augmentation_a_sample_is_the_letterboxed_picture(tmp_path: Path):
    reader = ImageReader([two_colours(tmp_path)], 64, augmenting=True)
    samples = TrainingSamples(reader, OFF, seed=0, mosaic=False)
    image, labels = samples[key(0)]
    assert image[:, 0, 0].tolist() == [114, 114, 114]  # 16 rows of padding above and below
    assert image[:, 32, 0].tolist() == [0, 0, 255]  # RGB: the left half is blue
    assert image[:, 32, 63].tolist() == [255, 0, 0]
    # 32 .. 64 by 16 .. 48, the right edge held a thousandth of a pixel inside
    np.testing.assert_allclose(labels, [[1, 0.75, 0.5, 0.5, 0.5]], atol=2e-5)


def test_a_flip_turns_picture_and_labels(tmp_path: Path):
    reader = ImageReader([two_colours(tmp_path)], 64, augmenting=True)
    samples = TrainingSamples(reader, replace(OFF, fliplr=1.0), seed=0, mosaic=False)
    image, labels = samples[key(0)]
    assert image[:, 32, 0].tolist() == [255, 0, 0]
    np.testing.assert_allclose(labels, [[1, 0.25, 0.5, 0.5, 0.5]], atol=2e-5)


def test_a_sample_takes_the_canvas_its_key_asks_for(tiny_data: Data):
    samples = training_samples(tiny_data, mosaic=False)
    assert samples[SampleKey(0, 0, 0, 32, 64)][0].shape == (3, 32, 64)


def test_a_picture_without_labels_is_a_sample_without_labels(tiny_data: Data):
    empty = next(i for i, r in enumerate(tiny_data[0]) if not len(r.labels))
    assert training_samples(tiny_data, mosaic=False)[key(empty)][1].shape == (0, 5)


def test_cached_pictures_are_those_of_the_disk_and_stay_so(tiny_data: Data):
    plain, cached = (training_samples(tiny_data, mixup=0.5) for _ in range(2))
    seen: list[tuple[int, int]] = []
    cached.reader.cache(lambda done, total: seen.append((done, total)))
    assert seen[0] == (1, 12)
    assert seen[-1] == (12, 12)
    before = [cached.reader.read(i).copy() for i in range(12)]
    for record in range(12):
        for ours, theirs in zip(cached[key(record)], plain[key(record)], strict=True):
            assert ours.tobytes() == theirs.tobytes()
    assert all(np.array_equal(cached.reader.read(i), before[i]) for i in range(12))


def test_a_cached_set_needs_its_files_no_more(tmp_path: Path):
    record = two_colours(tmp_path)
    reader = ImageReader([record], 64, augmenting=False)
    reader.cache(quiet)
    record.path.unlink()
    assert reader.read(0).shape == (32, 64, 3)


def test_a_cache_that_would_not_fit_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    record = two_colours(tmp_path)
    reader = ImageReader([record], 10_000_000, augmenting=False)  # 150 terabytes
    with caplog.at_level(logging.WARNING):
        reader.cache(quiet)
    assert "do not fit" in caplog.text
    record.path.unlink()
    with pytest.raises(DataError):
        reader.read(0)


def test_the_free_memory_is_a_sensible_number():
    assert 2**20 < available_memory() < 2**50


def test_a_picture_that_vanished_is_named(tmp_path: Path):
    record = two_colours(tmp_path)
    record.path.unlink()
    with pytest.raises(DataError, match=r"two\.png.*remove or replace"):
        ImageReader([record], 64, augmenting=False).read(0)


def test_a_picture_of_another_size_is_named_with_both_sizes(tmp_path: Path):
    record = two_colours(tmp_path)
    two_colours(tmp_path, width=48, height=40)
    with pytest.raises(DataError, match=r"two\.png: is 48x40 now, was 64x32"):
        ImageReader([record], 64, augmenting=False).read(0)


def test_a_validation_picture_keeps_its_shape_on_the_canvas_of_its_batch(tmp_path: Path):
    record = two_colours(tmp_path, width=128, height=64)
    sample = validation_sample(ImageReader([record], 64, augmenting=False), 0, (96, 96))
    assert sample.image.shape == (3, 96, 96)  # 64 x 32 in the middle, not enlarged
    assert sample.image[:, 48, 20].tolist() == [0, 0, 255]
    assert sample.image[:, 31, 20].tolist() == [114, 114, 114]
    np.testing.assert_allclose(sample.labels, [[1, 64 / 96, 0.5, 32 / 96, 32 / 96]], rtol=1e-6)
    assert sample.native_hw == (64, 128)
    assert sample.ratio_pad == ((0.5, 0.5), (16.0, 32.0))


def test_a_picture_becomes_planes_of_red_green_and_blue():
    planes = to_rgb_chw(np.array([[[1, 2, 3]]], np.uint8))
    assert planes.tolist() == [[[3]], [[2]], [[1]]]
    assert planes.flags["C_CONTIGUOUS"]
