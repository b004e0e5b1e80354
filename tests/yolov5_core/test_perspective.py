import math
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolov5_core.augment import FILL
from yolov5_core.config import AugmentConfig
from yolov5_core.mosaic import Window
from yolov5_core.perspective import (
    PerspectiveDraw,
    box_candidates,
    draw_perspective,
    perspective_matrix,
    plan_warp,
    random_perspective,
    seen_window,
    warp_image,
    warp_labels,
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


_ANY = AugmentConfig(degrees=180, translate=1, scale=1, shear=80, perspective=0.01)
_USUAL = AugmentConfig()


def plain_warp(image: np.ndarray, draw: PerspectiveDraw, border: tuple[int, int]) -> np.ndarray:
    """By the matrix itself, as OpenCV inverts it."""
    height, width = image.shape[:2]
    matrix = perspective_matrix(draw, (height, width), border)
    size_wh = (width + 2 * border[1], height + 2 * border[0])
    if draw.perspective_x or draw.perspective_y:
        return cv2.warpPerspective(image, matrix, dsize=size_wh, borderValue=FILL)
    return cv2.warpAffine(image, matrix[:2], dsize=size_wh, borderValue=FILL)


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([_ANY, _STRONG, _USUAL]))
def test_a_fourth_channel_changes_no_pixel_of_the_others(seed: int, config: AugmentConfig) -> None:
    image = picture(80, 96)
    draw = draw_perspective(generator(seed, "test"), config)
    warp = plan_warp(draw, (80, 96), (-20, -24))
    with_fourth = cv2.cvtColor(image, cv2.COLOR_BGR2BGRA)
    plain = plain_warp(image, draw, (-20, -24))
    np.testing.assert_array_equal(warp_image(with_fourth, warp)[..., :3], plain)
    np.testing.assert_array_equal(warp_image(image, warp), plain)


@settings(max_examples=150)
@given(st.integers(0, 10**6), st.sampled_from([_ANY, _STRONG, _USUAL]), st.booleans())
def test_pixels_outside_the_seen_window_do_not_matter(
    seed: int, config: AugmentConfig, flat: bool
) -> None:
    rng = generator(seed, "test")
    image, other = (rng.integers(0, 256, (80, 96, 4), np.uint8) for _ in range(2))
    draw = draw_perspective(rng, config)
    if flat:
        draw = replace(draw, perspective_x=0.0, perspective_y=0.0)
    warp = plan_warp(draw, (80, 96), (-20, -24))
    left, top, right, bottom = seen_window(warp)
    assert 0 <= left <= right <= 96
    assert 0 <= top <= bottom <= 80
    other[top:bottom, left:right] = image[top:bottom, left:right]
    np.testing.assert_array_equal(warp_image(other, warp), warp_image(image, warp))


def test_the_window_of_a_plain_crop_is_the_crop_and_a_margin() -> None:
    warp = plan_warp(PerspectiveDraw(), (80, 96), (-20, -24))
    assert seen_window(warp) == Window(22, 18, 74, 62)  # 24 .. 72 and 20 .. 60, 2 more each


def test_a_horizon_within_the_output_makes_the_window_the_whole_input() -> None:
    warp = plan_warp(PerspectiveDraw(perspective_x=0.01, scale=0.3), (400, 400), (0, 0))
    assert seen_window(warp) == Window(0, 0, 400, 400)


def slow_segment_boxes(
    segments: Sequence[np.ndarray], matrix: np.ndarray, size_wh: tuple[int, int]
) -> np.ndarray:
    """Spec C.9, polygon by polygon."""
    boxes = []
    for segment in segments:
        closed = np.concatenate((segment, segment[:1]))
        places = np.linspace(0, len(closed) - 1, 1000)
        index = np.arange(len(closed))
        points = np.stack([np.interp(places, index, closed[:, axis]) for axis in (0, 1)], 1)
        points = warp_points(points, matrix)
        inside = points[((points >= 0) & (points <= size_wh)).all(1)]
        boxes.append([*inside.min(0), *inside.max(0)] if len(inside) else [0.0] * 4)
    return np.array(boxes)


@settings(max_examples=60)
@given(
    st.integers(0, 10**6),
    st.lists(st.integers(1, 7), min_size=1, max_size=5),
    st.sampled_from([_STRONG, _USUAL]),
)
def test_boxes_of_polygons_are_those_found_one_by_one(
    seed: int, corners: list[int], config: AugmentConfig
) -> None:
    rng = generator(seed, "test")
    segments = [rng.uniform(0, 60, (count, 2)).astype(np.float32) for count in corners]
    labels = np.array([[0, *s.min(0), *s.max(0)] for s in segments], np.float32)
    warp = plan_warp(draw_perspective(rng, config), (60, 60))
    expected = slow_segment_boxes(segments, warp.matrix, (60, 60))
    kept, is_kept = warp_labels(labels, segments, warp)
    np.testing.assert_allclose(kept[:, 1:], expected[is_kept], atol=1e-4)
    keep = box_candidates(labels[:, 1:] * warp.scale, expected, area_threshold=0.01)
    np.testing.assert_array_equal(is_kept, keep)


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.booleans())
def test_warped_polygons_stay_within_the_picture(seed: int, wholly: bool) -> None:
    rng = generator(seed, "test")
    segments = [rng.uniform(0, 40, (4, 2)).astype(np.float32) for _ in range(5)]
    labels = np.array([[0, *s.min(0), *s.max(0)] for s in segments], np.float32)
    segments = segments if wholly else [*segments[:-1], _NONE]
    draw = draw_perspective(rng, _STRONG)
    _, kept, kept_segments = random_perspective(picture(), labels, segments, draw)
    assert len(kept) == len(kept_segments)
    for segment in kept_segments:
        assert ((segment >= 0) & (segment <= (60, 40))).all()


@settings(max_examples=40)
@given(st.integers(0, 10**6))
def test_a_painted_rectangle_is_found_where_its_label_goes(seed: int) -> None:
    rng = generator(seed, "test")
    x1, y1 = rng.integers(0, 60, 2).tolist()
    x2, y2 = x1 + int(rng.integers(10, 30)), y1 + int(rng.integers(10, 30))
    image = np.zeros((90, 90, 3), np.uint8)
    image[y1:y2, x1:x2] = 255
    label = np.array([[0, x1, y1, x2, y2]], np.float32)
    draw = draw_perspective(rng, AugmentConfig(translate=0.2, scale=0.4))
    warped, kept, _ = random_perspective(image, label, [_NONE], draw)
    rows, columns = np.nonzero(warped[..., 0] > 200)  # not the grey beyond the picture
    for _, *box in kept.tolist():
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(found, box, atol=1.5)  # half a pixel of the warp, one of blur


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
    assert all(0 < abs(d.perspective_x) <= 0.001 for d in draws)
    calm = AugmentConfig(degrees=0, translate=0, scale=0, shear=0, perspective=0)
    assert draw_perspective(generator(0, "draw"), calm) == PerspectiveDraw()
