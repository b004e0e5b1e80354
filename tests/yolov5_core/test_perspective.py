import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolov5_core.augment import FILL
from yolov5_core.config import AugmentConfig
from yolov5_core.perspective import (
    PerspectiveDraw,
    box_candidates,
    draw_perspective,
    perspective_matrix,
    random_perspective,
    warp_points,
)
from yolov5_core.randomness import generator

_NONE = np.zeros((0, 2), np.float32)
_LABEL = np.array([[2, 10, 10, 30, 20]], np.float32)
_STRONG = AugmentConfig(degrees=45, translate=0.3, scale=0.5, shear=20, perspective=0.001)


def picture(height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_a_draw_that_changes_nothing_returns_the_image_itself() -> None:
    image = picture()
    warped, labels, segments = random_perspective(image, _LABEL, [_NONE], PerspectiveDraw())
    assert warped is image
    np.testing.assert_array_equal(labels, _LABEL)
    assert [len(segment) for segment in segments] == [0]


def test_scale_is_about_the_centre_and_moves_boxes_with_pixels() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[15:25, 25:35] = 255
    label = np.array([[0, 25, 15, 35, 25]], np.float32)
    warped, labels, _ = random_perspective(image, label, [_NONE], PerspectiveDraw(scale=2.0))
    np.testing.assert_allclose(labels, [[0, 20, 10, 40, 30]], atol=1e-4)
    assert warped[11:28, 21:38].min() == 255
    assert warped[:9].max() == 0


def test_a_positive_angle_turns_counter_clockwise_on_the_screen() -> None:
    matrix = perspective_matrix(PerspectiveDraw(angle=90), (100, 100), (0, 0))
    right_of_centre = np.array([[100.0, 50.0]])
    np.testing.assert_allclose(warp_points(right_of_centre, matrix), [[50, 0]], atol=1e-9)


def test_a_negative_border_keeps_the_middle_of_a_mosaic() -> None:
    image = picture(64, 64)
    label = np.array([[0, 20, 20, 40, 40]], np.float32)
    warped, labels, _ = random_perspective(image, label, [_NONE], PerspectiveDraw(), (-16, -16))
    np.testing.assert_array_equal(warped, image[16:48, 16:48])
    np.testing.assert_allclose(labels, [[0, 4, 4, 24, 24]])


def test_what_no_pixel_reaches_is_grey() -> None:
    black = np.zeros((40, 60, 3), np.uint8)
    warped, _, _ = random_perspective(
        black, _LABEL, [_NONE], PerspectiveDraw(translate_x=1.0, translate_y=0.5)
    )
    assert (warped[:, :29] == FILL).all()
    assert (warped[:, 31:] == 0).all()


def test_a_box_moved_outside_the_image_is_dropped_with_its_polygon() -> None:
    labels = np.array([[0, 40, 10, 58, 30], [1, 2, 10, 20, 30]], np.float32)
    segments = [np.array([[40, 10], [58, 10], [50, 30]], np.float32), _NONE]
    draw = PerspectiveDraw(translate_x=1.2)
    _, kept, kept_segments = random_perspective(picture(), labels, segments, draw)
    np.testing.assert_allclose(kept, [[1, 44, 10, 60, 30]], atol=1e-4)
    assert [len(segment) for segment in kept_segments] == [0]


def test_a_turned_polygon_gives_a_tighter_box_than_turned_corners() -> None:
    diamond = np.array([[30, 5], [45, 20], [30, 35], [15, 20]], np.float32)
    label = np.array([[0, 15, 5, 45, 35]], np.float32)
    draw = PerspectiveDraw(angle=45)
    _, by_corners, _ = random_perspective(picture(), label, [_NONE], draw)
    _, by_polygon, kept = random_perspective(picture(), label, [diamond], draw)
    half = 15 / math.sqrt(2)  # a diamond turned by 45 degrees is a square
    np.testing.assert_allclose(
        by_polygon[0, 1:], [30 - half, 20 - half, 30 + half, 20 + half], atol=0.05
    )
    assert (by_corners[0, 3:] - by_corners[0, 1:3] > 2 * half + 5).all()
    assert kept[0].shape == (4, 2)


def test_one_label_without_polygon_makes_every_box_follow_its_corners() -> None:
    diamond = np.array([[30, 5], [45, 20], [30, 35], [15, 20]], np.float32)
    labels = np.array([[0, 15, 5, 45, 35], [1, 15, 5, 45, 35]], np.float32)
    draw = PerspectiveDraw(angle=45)
    _, kept, _ = random_perspective(picture(), labels, [diamond, _NONE], draw)
    np.testing.assert_array_equal(kept[0, 1:], kept[1, 1:])


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([(0, 0), (-10, -15)]))
def test_labels_never_leave_the_canvas_and_inputs_never_change(
    seed: int, with_polygons: bool, border_hw: tuple[int, int]
) -> None:
    rng = generator(seed, "test")
    corners = rng.uniform(0, 40, (6, 2, 2))
    labels = np.concatenate(
        (np.arange(6)[:, None], corners.min(1), corners.max(1)), 1, dtype=np.float32
    )
    segments = [
        np.array([[x1, y1], [x2, y1], [x2, y2]], np.float32) if with_polygons else _NONE
        for _, x1, y1, x2, y2 in labels
    ]
    image = picture()
    before = image.copy(), labels.copy(), [s.copy() for s in segments]

    warped, kept, kept_segments = random_perspective(
        image, labels, segments, draw_perspective(rng, _STRONG), border_hw
    )

    height, width = warped.shape[:2]
    assert (height, width) == (40 + 2 * border_hw[0], 60 + 2 * border_hw[1])
    assert kept.dtype == np.float32
    assert len(kept_segments) == len(kept)
    assert ((kept[:, 1:] >= 0) & (kept[:, 1:] <= [width, height, width, height])).all()
    assert (kept[:, 3:] - kept[:, 1:3] > 2 - 1e-3).all()
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(labels, before[1])
    for segment, original in zip(segments, before[2], strict=True):
        np.testing.assert_array_equal(segment, original)


@settings(max_examples=50)
@given(st.integers(0, 10**6))
def test_the_inverse_matrix_brings_points_back(seed: int) -> None:
    rng = generator(seed, "test")
    matrix = perspective_matrix(draw_perspective(rng, _STRONG), (40, 60), (0, 0))
    points = rng.uniform(0, 40, (5, 2))
    back = warp_points(warp_points(points, matrix), np.linalg.inv(matrix))
    np.testing.assert_allclose(back, points, atol=1e-6)


def test_an_image_without_labels_is_warped_all_the_same() -> None:
    empty = np.zeros((0, 5), np.float32)
    warped, labels, segments = random_perspective(picture(), empty, [], PerspectiveDraw(angle=9))
    assert warped.shape == (40, 60, 3)
    assert (labels.shape, segments) == ((0, 5), ())


@pytest.mark.parametrize(
    ("after", "stays"),
    [
        ((0, 0, 10, 10), True),
        ((0, 0, 2, 10), False),  # not longer than 2 pixels
        ((0, 0, 10, 0), False),
        ((0, 0, 4, 2.4), False),  # 9.6 % of the area
        ((0, 0, 4, 2.6), True),
    ],
)
def test_small_remains_of_a_box_are_no_candidates(after: tuple[float, ...], stays: bool) -> None:
    before = np.array([[0.0, 0.0, 10.0, 10.0]])
    assert box_candidates(before, np.array([after])).tolist() == [stays]


def test_slivers_are_no_candidates() -> None:
    sliver = np.array([[0.0, 0.0, 301.0, 3.0]])
    assert box_candidates(sliver, sliver).tolist() == [False]
    assert box_candidates(sliver, sliver, aspect_threshold=101).tolist() == [True]


def test_draws_stay_within_the_configured_strength() -> None:
    draws = [draw_perspective(generator(0, "draw", i), _STRONG) for i in range(100)]
    assert all(abs(d.angle) <= 45 and abs(d.shear_x) <= 20 for d in draws)
    assert all(0.5 <= d.scale <= 1.5 and 0.2 <= d.translate_x <= 0.8 for d in draws)
    assert all(d.is_projective for d in draws)
    calm = AugmentConfig(degrees=0, translate=0, scale=0, shear=0, perspective=0)
    assert draw_perspective(generator(0, "draw"), calm) == PerspectiveDraw()
