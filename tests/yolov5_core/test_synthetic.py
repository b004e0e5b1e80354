from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from yolov5_core.synthetic import (
    MIN_INSIDE,
    MIN_VISIBLE,
    NAMES,
    draw_dataset,
    draw_image,
    draw_scene,
    outline,
    rasterise,
)


def silent(_done: int, _total: int) -> None:
    pass


def draw(folder: Path, progress: Callable[[int, int], None] = silent, train: int = 4) -> Path:
    return draw_dataset(folder, train=train, val=2, image_size=64, seed=3, progress=progress)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def pixel_boxes(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    centre, size = labels[:, 1:3].astype(np.float64), labels[:, 3:5]
    return np.hstack([centre - size / 2, centre + size / 2]) * (width, height, width, height)


def test_a_picture_is_a_pure_function_of_seed_and_index():
    image, labels = draw_image(1, 7, 96)
    draw_image(1, 8, 96)  # another picture in between changes nothing
    again, labels_again = draw_image(1, 7, 96)
    assert np.array_equal(image, again)
    assert np.array_equal(labels, labels_again)


@pytest.mark.parametrize(("seed", "index"), [(2, 7), (1, 8)])
def test_another_seed_or_index_gives_another_picture(seed: int, index: int):
    image, _ = draw_image(1, 7, 96)
    other, _ = draw_image(seed, index, 96)
    assert image.shape != other.shape or not np.array_equal(image, other)


def test_pictures_are_bgr_bytes_of_varied_sizes_and_aspects():
    shapes = set()
    for index in range(20):
        image, labels = draw_image(0, index, 160)
        assert image.dtype == np.uint8
        assert labels.dtype == np.float32
        assert image.shape[2] == 3
        assert 120 <= min(image.shape[:2]) <= max(image.shape[:2]) <= 224
        shapes.add(image.shape[:2])
    assert len(shapes) > 4
    assert any(height > width for height, width in shapes)
    assert any(height < width for height, width in shapes)


def test_every_class_occurs_about_equally_often_and_some_pictures_are_empty():
    labels = [draw_image(0, index, 64)[1] for index in range(150)]
    counts = np.bincount(np.concatenate(labels)[:, 0].astype(int), minlength=len(NAMES))
    assert len(counts) == len(NAMES) == 4
    assert counts.min() > 0.6 * counts.mean()
    assert 0 < sum(len(rows) == 0 for rows in labels) < 20


@settings(max_examples=40, deadline=None)
@given(index=st.integers(0, 10_000))
def test_boxes_span_exactly_the_masks_they_label(index: int):
    scene = draw_scene(5, index, 128)
    height, width = scene.image_bgr.shape[:2]
    boxes = pixel_boxes(scene.labels, height, width)
    assert len(boxes) == len(scene.masks)
    for box, mask in zip(boxes, scene.masks, strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        touched = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        # The outermost pixels are covered in part: the box lies within them, not beyond.
        inwards = (box - touched) * (1, 1, -1, -1)
        assert (inwards > -1e-3).all()
        assert (inwards < 1).all()


@settings(max_examples=40, deadline=None)
@given(
    kind=st.integers(0, 3),
    size=st.floats(12, 60),
    angle=st.floats(0, 7),
    x=st.floats(10, 86),
    y=st.floats(10, 54),
)
def test_a_rasterised_box_is_the_outline_clipped_to_the_picture(
    kind: int, size: float, angle: float, x: float, y: float
):
    points = outline(kind, size, angle, 1.1) + np.array([x, y])
    mask, box = rasterise(points, 64, 96)
    low, high = points.min(axis=0), points.max(axis=0)
    assert np.ptp(points, axis=0).max() == pytest.approx(size)
    whole = (low >= 0).all() and (high <= (96, 64)).all()
    if whole:  # else corners outside take part of the extent with them
        assert np.abs(box - (*low, *high)).max() <= 0.5
        assert mask.sum() == pytest.approx(cv2.contourArea(points.astype(np.float32)), rel=0.15)
    assert (box >= 0).all()
    assert (box <= (96, 64, 96, 64)).all()


def test_a_square_on_the_pixel_grid_fills_its_pixels_and_no_others():
    square = np.array([[10.0, 20.0], [30.0, 20.0], [30.0, 40.0], [10.0, 40.0]])
    mask, box = rasterise(square, 64, 64)
    assert np.abs(box - (10, 20, 30, 40)).max() <= 0.25
    assert (mask[21:39, 11:29] == 1).all()
    assert mask[:19].sum() == mask[42:].sum() == mask[:, :9].sum() == mask[:, 32:].sum() == 0


@settings(max_examples=30, deadline=None)
@given(index=st.integers(0, 10_000))
def test_no_labelled_shape_is_mostly_hidden(index: int):
    masks = draw_scene(5, index, 96).masks
    for position, mask in enumerate(masks):
        covered = 1 - np.prod(1 - masks[position + 1 :], axis=0)
        assert (mask * (1 - covered)).sum() >= 0.99 * MIN_VISIBLE * mask.sum()
    assert MIN_INSIDE > 0.5


def test_a_drawn_shape_shows_in_the_picture():
    contrasts = []
    for index in range(40):
        scene = draw_scene(0, index, 128)
        for mask in scene.masks[-1:]:  # the last shape is covered by none
            inside = (mask > 0.9).astype(np.uint8)
            ring = (cv2.dilate(inside, np.ones((9, 9), np.uint8)) > 0) & (mask == 0)
            means = [scene.image_bgr[area].mean(axis=0) for area in (inside > 0, ring)]
            contrasts.append(np.abs(means[0] - means[1]).sum())
    assert min(contrasts) > 15  # grey levels, three channels together


def test_a_dataset_has_readable_pictures_labels_and_a_description(tmp_path: Path):
    seen: list[tuple[int, int]] = []
    data_yaml = draw(tmp_path, lambda done, total: seen.append((done, total)))
    description = yaml.safe_load(data_yaml.read_text())
    assert seen == [(done, 6) for done in range(1, 7)]
    assert description["names"] == list(NAMES)
    for split, count in (("train", 4), ("val", 2)):
        pictures = sorted((tmp_path / description[split]).iterdir())
        assert len(pictures) == count
        for number, picture in enumerate(pictures):
            image, labels = draw_image(3, number + (10_000_000 if split == "val" else 0), 64)
            assert cv2.imread(str(picture)).shape == image.shape
            text = (tmp_path / "labels" / split / f"{picture.stem}.txt").read_text()
            rows = [[float(field) for field in line.split()] for line in text.splitlines()]
            assert np.allclose(np.reshape(rows, (-1, 5)), labels, atol=1e-6)


def test_validation_pictures_stay_when_the_training_set_grows(tmp_path: Path):
    draw(tmp_path / "small")
    draw(tmp_path / "large", train=6)
    assert contents(tmp_path / "small/images/val") == contents(tmp_path / "large/images/val")


def test_a_complete_dataset_is_not_drawn_again(tmp_path: Path):
    draw(tmp_path)
    calls: list[int] = []
    draw(tmp_path, lambda done, _total: calls.append(done))
    assert calls == []


@pytest.mark.parametrize(
    "lost",
    ["synthetic.json", "images/train/synthetic_00001.jpg", "labels/val/synthetic_00000.txt"],
)
def test_an_incomplete_dataset_is_drawn_again_to_the_same_bytes(tmp_path: Path, lost: str):
    draw(tmp_path)
    before = contents(tmp_path)
    (tmp_path / lost).unlink()
    draw(tmp_path)
    assert contents(tmp_path) == before


def test_other_parameters_replace_the_dataset_and_leave_no_picture_of_the_old(tmp_path: Path):
    draw(tmp_path, train=6)
    draw(tmp_path / "fresh", train=2)
    draw(tmp_path, train=2)
    for part in ("images", "labels"):
        assert contents(tmp_path / part) == contents(tmp_path / "fresh" / part)


def test_an_interrupted_drawing_is_not_taken_for_complete(tmp_path: Path):
    def stop(done: int, _total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path, stop)
    draw(tmp_path)
    draw(tmp_path / "fresh")
    assert contents(tmp_path / "images") == contents(tmp_path / "fresh/images")


def test_a_data_yaml_of_someone_else_is_never_overwritten(tmp_path: Path):
    (tmp_path / "data.yaml").write_text("names: [mine]\n")
    with pytest.raises(FileExistsError, match="another folder"):
        draw(tmp_path)
    assert contents(tmp_path) == {"data.yaml": b"names: [mine]\n"}


def test_a_picture_too_small_for_shapes_is_refused():
    with pytest.raises(ValueError, match="at least 32"):
        draw_image(0, 0, 16)
