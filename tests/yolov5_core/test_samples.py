import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yolov5_core.augment import flip_left_right, flip_up_down, hsv_gains, hsv_lut, mixup_ratio
from yolov5_core.boxes import clip_boxes, denormalise, normalise
from yolov5_core.config import AugmentConfig
from yolov5_core.dataset import NO_SEGMENT, DataError, Place, Record
from yolov5_core.mosaic import (
    choose_copies,
    copy_paste,
    corners4,
    corners9,
    draw_mosaic9_crop,
    draw_mosaic_center,
)
from yolov5_core.perspective import draw_perspective, random_perspective
from yolov5_core.randomness import generator
from yolov5_core.samples import (
    ImageReader,
    SampleKey,
    TrainingSamples,
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
        name="train/two.png",
        place=Place(path, 0, path.stat().st_size),
        width=width,
        height=height,
        labels=labels,
        segments=(NO_SEGMENT,),
    )


augmentations = st.fixed_dictionaries(
    {
        "degrees": st.sampled_from([0.0, 30.0]),
        "shear": st.sampled_from([0.0, 10.0]),
        "perspective": st.sampled_from([0.0, 0.001]),
        "flipud": st.sampled_from([0.0, 0.5]),
        "mixup": st.sampled_from([0.0, 1.0]),
        "mosaic": st.sampled_from([0.0, 0.5, 1.0]),
        "mosaic9": st.sampled_from([0.0, 0.5, 1.0]),
        "copy_paste": st.sampled_from([0.0, 0.5]),
        "scale": st.sampled_from([0.0, 0.9]),
    }
)


def outlined(records: tuple[Record, ...]) -> tuple[Record, ...]:
    """The records with an octagon in each box; some labels, and one whole record, stay without."""
    turns = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    circle = np.stack([np.cos(turns), np.sin(turns)], 1) / 2
    out = []
    for number, record in enumerate(records):
        segments = [
            (row[1:3] + circle * row[3:]).clip(0, 1).astype(np.float32) if place % 3 else NO_SEGMENT
            for place, row in enumerate(record.labels)
        ]
        out.append(replace(record, segments=tuple(segments)) if number else record)
    return tuple(out)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(augment=augmentations, record=st.integers(0, 11), epoch=st.integers(0, 300))
def test_labels_lie_inside_the_picture_and_have_a_size(
    tiny_data: Data, augment: dict[str, float], record: int, epoch: int
):
    data = (outlined(tiny_data[0]), ())
    image, labels = training_samples(data, **augment)[key(record, epoch)]
    assert (image.shape, image.dtype) == ((64, 64, 3), np.uint8)
    assert image.flags["C_CONTIGUOUS"]
    assert labels.dtype == np.float32
    assert labels.shape[1] == 5
    boxes = labels[:, 1:]
    assert ((boxes >= 0) & (boxes <= 1)).all()
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    assert ((low > -1e-6) & (high < 1 + 1e-6)).all()
    assert (boxes[:, 2:] > 0).all()


class SlowSamples:
    """Spec C.8 to C.10 step by step on the whole canvas, three channels, nothing left out."""

    def __init__(self, fast: TrainingSamples) -> None:
        self.reader, self.augment = fast.reader, fast.augment

    def read(self, index: int) -> np.ndarray:
        return self.reader.read(index, self.reader.records[index])

    def sample(self, key: SampleKey) -> tuple[np.ndarray, np.ndarray]:
        c, size = self.augment, self.reader.image_size
        rng = generator(0, "augment", key.epoch, key.record, key.repeat)
        assert rng.random() < c.mosaic
        image, labels = self.mosaic(key.record, rng)
        if rng.random() < c.mixup:
            other, more = self.mosaic(int(rng.integers(len(self.reader.records))), rng)
            ratio = mixup_ratio(rng)
            image = (image * ratio + other * (1 - ratio)).astype(np.uint8)
            labels = np.concatenate((labels, more))
        labels[:, 1:] = clip_boxes(labels[:, 1:], size - 1e-3, size - 1e-3)
        gains = hsv_gains(rng, c)
        if gains is not None:
            hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
            for channel, table in enumerate(hsv_lut(gains)):
                hsv[..., channel] = table[hsv[..., channel]]
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
        if rng.random() < c.flipud:
            image, labels = flip_up_down(image, labels)
        if rng.random() < c.fliplr:
            image, labels = flip_left_right(image, labels)
        labels[:, 1:] = normalise(labels[:, 1:], size, size)
        return image[..., ::-1], labels

    def mosaic(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        size, records = self.reader.image_size, self.reader.records
        nine = self.augment.mosaic9 > 0 and rng.random() < self.augment.mosaic9
        center = None if nine else draw_mosaic_center(rng, size)
        others = rng.integers(len(records), size=8 if nine else 3).tolist()
        order = rng.permutation([index, *others]).tolist()
        images = [self.read(i) for i in order]
        sizes = [image.shape[:2] for image in images]
        if center is None:
            corners = corners9(sizes, size, draw_mosaic9_crop(rng, size))
        else:
            corners = corners4(sizes, center)
        around = np.full((4 * size, 4 * size, 3), 114, np.uint8)  # from -size to 3 size
        labels, segments = [], []
        for i, image, (left, top) in zip(order, images, corners, strict=True):
            height, width = image.shape[:2]
            x, y = left + size, top + size
            if x + width > 0 and y + height > 0:
                target = around[max(y, 0) : y + height, max(x, 0) : x + width]
                target[:] = image[-min(y, 0) :, -min(x, 0) :][: len(target), : target.shape[1]]
            rows = records[i].labels.copy()
            boxes = denormalise(rows[:, 1:], width, height, left, top)
            rows[:, 1:] = clip_boxes(boxes, 2 * size, 2 * size)
            labels.append(rows)
            size_wh, corner = np.float32((width, height)), np.float32((left, top))
            segments += [(s * size_wh + corner).clip(0, 2 * size) for s in records[i].segments]
        canvas = around[size : 3 * size, size : 3 * size]
        chosen = choose_copies(rng, self.augment.copy_paste, segments)
        canvas, rows, segments = copy_paste(canvas, np.concatenate(labels), segments, chosen)
        draw = draw_perspective(rng, self.augment)
        image, rows, _ = random_perspective(canvas, rows, segments, draw, (-size // 2, -size // 2))
        return image, rows


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(augment=augmentations, record=st.integers(0, 11), epoch=st.integers(0, 300))
def test_a_sample_is_what_the_whole_canvas_would_give(
    tiny_data: Data, augment: dict[str, float], record: int, epoch: int
):
    samples = training_samples((outlined(tiny_data[0]), ()), **{**augment, "mosaic": 1.0})
    image, labels = samples[key(record, epoch)]
    slow_image, slow_labels = SlowSamples(samples).sample(key(record, epoch))
    np.testing.assert_array_equal(image, slow_image)
    np.testing.assert_array_equal(labels, slow_labels)


class CountingReader(ImageReader):
    """Counts what it reads."""

    count = 0

    def read(self, index: int, record: Record) -> np.ndarray:
        self.count += 1
        return super().read(index, record)


def test_tiles_that_nobody_sees_are_not_even_read(tiny_data: Data):
    reader = CountingReader(tiny_data[0], 64, augmenting=True)
    samples = TrainingSamples(reader, AugmentConfig(scale=0.9), seed=0, mosaic=True)
    for epoch in range(50):
        _ = samples[key(0, epoch)]
    assert 150 < reader.count < 190  # of four a sample


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
    assert image[0, 0].tolist() == [114, 114, 114]  # 16 rows of padding above and below
    assert image[32, 0].tolist() == [0, 0, 255]  # RGB: the left half is blue
    assert image[32, 63].tolist() == [255, 0, 0]
    # 32 .. 64 by 16 .. 48, the right edge held a thousandth of a pixel inside
    np.testing.assert_allclose(labels, [[1, 0.75, 0.5, 0.5, 0.5]], atol=2e-5)


def test_a_flip_turns_picture_and_labels(tmp_path: Path):
    reader = ImageReader([two_colours(tmp_path)], 64, augmenting=True)
    samples = TrainingSamples(reader, replace(OFF, fliplr=1.0), seed=0, mosaic=False)
    image, labels = samples[key(0)]
    assert image[32, 0].tolist() == [255, 0, 0]
    np.testing.assert_allclose(labels, [[1, 0.25, 0.5, 0.5, 0.5]], atol=2e-5)


def test_a_sample_takes_the_canvas_its_key_asks_for(tiny_data: Data):
    samples = training_samples(tiny_data, mosaic=False)
    assert samples[SampleKey(0, 0, 0, 32, 64)][0].shape == (32, 64, 3)


def test_a_picture_without_labels_is_a_sample_without_labels(tiny_data: Data):
    empty = next(i for i, r in enumerate(tiny_data[0]) if not len(r.labels))
    assert training_samples(tiny_data, mosaic=False)[key(empty)][1].shape == (0, 5)


def test_cached_pictures_are_those_of_the_disk_and_stay_so(tiny_data: Data):
    plain, cached = (training_samples(tiny_data, mixup=0.5) for _ in range(2))
    seen: list[tuple[int, int]] = []
    cached.reader.cache(lambda done, total: seen.append((done, total)))
    assert seen[0] == (1, 12)
    assert seen[-1] == (12, 12)
    before = [cached.reader.read(i, tiny_data[0][i]).copy() for i in range(12)]
    for record in range(12):
        for ours, theirs in zip(cached[key(record)], plain[key(record)], strict=True):
            assert ours.tobytes() == theirs.tobytes()
    assert all(np.array_equal(cached.reader.read(i, tiny_data[0][i]), before[i]) for i in range(12))


def test_a_cached_set_needs_its_files_no_more(tmp_path: Path):
    record = two_colours(tmp_path)
    reader = ImageReader([record], 64, augmenting=False)
    reader.cache(quiet)
    record.place.file.unlink()
    assert reader.read(0, record).shape == (32, 64, 3)


def test_a_cache_that_would_not_fit_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    record = two_colours(tmp_path)
    reader = ImageReader([record], 10_000_000, augmenting=False)  # 150 terabytes
    with caplog.at_level(logging.WARNING):
        reader.cache(quiet)
    assert "do not fit" in caplog.text
    record.place.file.unlink()
    with pytest.raises(DataError):
        reader.read(0, record)


def test_cached_pictures_lie_in_one_block_that_forked_workers_share(tiny_data: Data):
    records = tiny_data[0]
    reader = ImageReader(records, 64, augmenting=True)
    reader.cache(quiet)
    blocks = {id(reader.read(i, record).base) for i, record in enumerate(records)}
    assert len(blocks) == 1
    sizes = [reader.read(i, record).nbytes for i, record in enumerate(records)]
    block = reader.read(0, records[0]).base
    assert block is not None
    assert block.nbytes == sum(sizes)  # nothing in between
    assert not block.flags.writeable


def test_the_memory_for_a_cache_is_told_before_it_is_filled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    record = two_colours(tmp_path)
    said: list[str] = []
    with caplog.at_level(logging.INFO):
        reader = ImageReader([record] * 3, 64, augmenting=False)
        reader.cache(lambda *_: said.append(caplog.text))
    assert "3 pictures take 0.00 GB" in said[0]


def photograph(folder: Path, width: int, height: int, suffix: str = ".jpg") -> Record:
    """A smooth picture without labels."""
    x, y = np.meshgrid(np.linspace(0, 200, width), np.linspace(0, 200, height))
    path = folder / f"photograph{suffix}"
    assert cv2.imwrite(str(path), np.stack([x, y, 255 - x], 2).astype(np.uint8))
    place = Place(path, 0, path.stat().st_size)
    labels = np.zeros((0, 5), np.float32)
    return Record(
        name=path.name, place=place, width=width, height=height, labels=labels, segments=()
    )


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(width=st.integers(20, 200), height=st.integers(20, 200))
def test_a_photograph_decoded_at_a_fraction_looks_the_same_and_has_the_same_size(
    tmp_path: Path, width: int, height: int
):
    record = photograph(tmp_path, width, height)
    small, whole = (
        ImageReader([record], 32, augmenting=augmenting).read(0, record)
        for augmenting in (True, False)
    )
    assert small.shape == whole.shape
    assert max(small.shape) in (32, 33)  # see boxes.resized_hw
    one_pixel = 200 / min(small.shape[:2])  # of the ramp: the last column may be of fewer
    assert np.abs(small.astype(int) - whole).mean() < one_pixel + 2  # levels


def test_only_photographs_of_twice_the_size_are_decoded_at_a_fraction(tmp_path: Path):
    photo, drawing = photograph(tmp_path, 64, 48), photograph(tmp_path, 64, 48, ".png")
    decoded = cv2.imread(str(photo.place.file), cv2.IMREAD_REDUCED_COLOR_2)
    full = cv2.imread(str(photo.place.file))

    def read(record: Record, size: int, *, augmenting: bool = True) -> np.ndarray:
        return ImageReader([record], size, augmenting=augmenting).read(0, record)

    np.testing.assert_array_equal(read(photo, 32), decoded)
    np.testing.assert_array_equal(read(photo, 33), cv2.resize(full, (33, 25)))  # linear
    averaged = cv2.resize(full, (32, 24), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(read(photo, 32, augmenting=False), averaged)
    drawn = cv2.resize(cv2.imread(str(drawing.place.file)), (32, 24))
    np.testing.assert_array_equal(read(drawing, 32), drawn)


def test_a_photograph_of_another_size_is_named_though_decoded_at_a_fraction(tmp_path: Path):
    record = replace(photograph(tmp_path, 96, 48), height=64)
    with pytest.raises(DataError, match=r"photograph\.jpg: is 96x48 now, was 96x64"):
        ImageReader([record], 32, augmenting=True).read(0, record)


def test_a_picture_that_vanished_is_named(tmp_path: Path):
    record = two_colours(tmp_path)
    record.place.file.unlink()
    with pytest.raises(DataError, match=r"two\.png: .*No such file.*start a new run"):
        ImageReader([record], 64, augmenting=False).read(0, record)


def test_a_picture_of_another_size_is_named_with_both_sizes(tmp_path: Path):
    record = two_colours(tmp_path)
    record = replace(record, place=two_colours(tmp_path, width=48, height=40).place)
    with pytest.raises(DataError, match=r"two\.png: is 48x40 now, was 64x32"):
        ImageReader([record], 64, augmenting=False).read(0, record)


def test_a_validation_picture_keeps_its_shape_on_the_canvas_of_its_batch(tmp_path: Path):
    record = two_colours(tmp_path, width=128, height=64)
    sample = validation_sample(ImageReader([record], 64, augmenting=False), 0, (96, 96))
    assert sample.image.shape == (3, 96, 96)  # 64 x 32 in the middle, not enlarged
    assert sample.image[:, 48, 20].tolist() == [0, 0, 255]
    assert sample.image[:, 31, 20].tolist() == [114, 114, 114]
    np.testing.assert_allclose(sample.labels, [[1, 64 / 96, 0.5, 32 / 96, 32 / 96]], rtol=1e-6)
    assert sample.native_hw == (64, 128)
    assert sample.ratio_pad == ((0.5, 0.5), (16.0, 32.0))


# ---- quads -----------------------------------------------------------------------------------


def quads(folder: Path) -> tuple[TrainingSamples, list[list[SampleKey]]]:
    """Samples of four plain pictures without augmentation, and twenty groups of the four."""
    records = []
    for number in range(4):
        path = folder / f"{number}.png"
        assert cv2.imwrite(str(path), np.full((64, 64, 3), 10 * number, np.uint8))
        labels = np.array([[number, 0.5, 0.25, 0.5, 0.5]], np.float32)
        place = Place(path, 0, path.stat().st_size)
        records.append(
            Record(
                name=path.name,
                place=place,
                width=64,
                height=64,
                labels=labels,
                segments=(NO_SEGMENT,),
            )
        )
    samples = TrainingSamples(ImageReader(records, 64, augmenting=True), OFF, seed=0, mosaic=False)
    return samples, [[key(record, epoch) for record in range(4)] for epoch in range(20)]


def test_a_quad_is_four_pictures_in_two_columns_or_the_first_enlarged(tmp_path: Path):
    samples, groups = quads(tmp_path)
    enlarged = 0
    for keys in groups:
        image, labels = samples.quad(keys)
        assert image.shape == (128, 128, 3)
        if len(labels) == 1:
            enlarged += 1
            assert (image == 0).all()
            np.testing.assert_allclose(labels, [[0, 0.5, 0.25, 0.5, 0.5]], atol=1e-4)
            continue
        assert image[[0, 64, 0, 64], [0, 0, 64, 64], 0].tolist() == [0, 10, 20, 30]
        expected = [
            [0, 0.25, 0.125, 0.25, 0.25],
            [1, 0.25, 0.625, 0.25, 0.25],  # below
            [2, 0.75, 0.125, 0.25, 0.25],  # right
            [3, 0.75, 0.625, 0.25, 0.25],
        ]
        np.testing.assert_allclose(labels, expected, atol=1e-4)
    assert 4 <= enlarged <= 16  # of 20, evenly


def test_a_quad_made_alone_is_the_same_bytes(tiny_data: Data):
    samples, again = (training_samples(tiny_data) for _ in range(2))
    for epoch in range(6):
        keys = [key(record, epoch) for record in (3, 1, 4, 1)]
        for ours, theirs in zip(samples.quad(keys), again.quad(keys), strict=True):
            assert ours.tobytes() == theirs.tobytes()


def test_an_enlarged_quad_shows_its_first_sample(tiny_data: Data):
    samples = training_samples(tiny_data)
    for epoch in range(10):
        keys = [key(record, epoch) for record in range(4)]
        image, labels = samples.quad(keys)
        first, first_labels = samples[keys[0]]
        smaller = cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA)
        is_enlarged = np.abs(smaller.astype(int) - first).mean() < 8  # levels, from blur
        assert is_enlarged == np.array_equal(labels, first_labels)
        if not is_enlarged:
            np.testing.assert_array_equal(image[:64, :64], first)
