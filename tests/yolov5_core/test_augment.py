"""Steps on one picture; mosaic and copy-paste, then perspective, in the two files beside this."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolov5_core.augment import (
    FILL,
    flip_left_right,
    flip_up_down,
    hsv_gains,
    hsv_lut,
    letterbox,
    mixup,
    mixup_ratio,
    resize,
    resize_longest,
    to_rgb,
)
from yolov5_core.boxes import unletterbox
from yolov5_core.config import AugmentConfig
from yolov5_core.randomness import generator

Flip = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def labels_of(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 5)


@st.composite
def labels_inside(draw: st.DrawFn, height: int, width: int) -> np.ndarray:
    def row() -> tuple[float, ...]:
        xs = sorted((draw(st.integers(0, width)), draw(st.integers(0, width))))
        ys = sorted((draw(st.integers(0, height)), draw(st.integers(0, height))))
        return (draw(st.integers(0, 9)), xs[0], ys[0], xs[1], ys[1])

    return labels_of(*(row() for _ in range(draw(st.integers(0, 4)))))


def test_the_longer_side_is_resized_and_the_same_image_comes_back_if_it_fits() -> None:
    image = picture(40, 20)
    assert resize_longest(image, 20, augment=False).shape == (20, 10, 3)
    assert resize_longest(image, 80, augment=True).shape == (80, 40, 3)
    assert resize_longest(image, 40, augment=True) is image


def test_shrinking_averages_areas_unless_augmenting() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[0, 0] = 160  # of each block of 16 pixels, one: the mean is 10
    assert resize_longest(image, 1, augment=False)[0, 0].tolist() == [10, 10, 10]
    assert resize_longest(image, 1, augment=True)[0, 0].tolist() == [0, 0, 0]


def test_a_picture_resized_to_its_own_size_is_itself() -> None:
    image = picture(40, 20)
    assert resize(image, (40, 20), augment=False) is image
    assert resize(image, (41, 20), augment=False).shape == (41, 20, 3)
    np.testing.assert_array_equal(
        resize(image, (20, 10), augment=False), resize_longest(image, 20, augment=False)
    )


def test_a_letterbox_is_grey_around_the_untouched_image() -> None:
    image = picture(4, 8)
    boxed, geometry = letterbox(image, (8, 8))
    assert boxed.shape == (8, 8, 3)
    np.testing.assert_array_equal(boxed[2:6], image)
    assert (boxed[[0, 1, 6, 7]] == FILL).all()
    assert geometry.pad == (0, 2)


@given(labels_inside(30, 50), st.integers(32, 90), st.integers(32, 90))
def test_boxes_drawn_on_a_letterbox_map_back(labels: np.ndarray, height: int, width: int) -> None:
    _, geometry = letterbox(picture(30, 50), (height, width))
    pad_xyxy = np.array((*geometry.pad, *geometry.pad))
    on_canvas = labels[:, 1:] * geometry.ratio[0] + pad_xyxy
    back = unletterbox(on_canvas, (height, width), (30, 50), (geometry.ratio, geometry.pad))
    np.testing.assert_allclose(back, labels[:, 1:], atol=1e-4)


def test_hue_wraps_and_the_others_saturate_with_truncation() -> None:
    table = hsv_lut(np.array((1.5, 2.0, 0.5)))
    assert table[0, [0, 100, 119, 120]].tolist() == [0, 150, 178, 0]
    assert table[1, [100, 127, 128, 255]].tolist() == [200, 254, 255, 255]
    assert table[2, [3, 255]].tolist() == [1, 127]


def test_colours_come_out_in_the_order_red_green_blue() -> None:
    blue = np.zeros((2, 2, 3), np.uint8)
    blue[..., 0] = 200
    assert to_rgb(blue, None)[0, 0].tolist() == [0, 0, 200]
    assert to_rgb(blue, np.ones(3))[0, 0].tolist() == [0, 0, 200]
    assert to_rgb(blue, np.array((1.0, 1.0, 0.5)))[0, 0].tolist() == [0, 0, 100]


def test_gains_of_one_keep_grey_pixels_and_never_change_the_input() -> None:
    image = np.full((2, 2, 3), 77, np.uint8)
    np.testing.assert_array_equal(to_rgb(image, np.ones(3)), image)
    coloured = picture(6, 6)
    before = coloured.copy()
    darker = to_rgb(coloured, np.array((1.0, 1.0, 0.5)))
    np.testing.assert_array_equal(coloured, before)
    np.testing.assert_array_equal(darker.max(2), coloured.max(2) // 2)  # value is the maximum


@settings(max_examples=40)
@given(st.tuples(*[st.floats(0.0, 2.0)] * 3), st.booleans())
def test_colours_are_changed_as_one_pixel_at_a_time_would_be(
    gains: tuple[float, float, float], with_fourth: bool
) -> None:
    image = picture(9, 7)
    code = cv2.COLOR_BGR2BGRA if with_fourth else cv2.COLOR_BGR2RGB
    given_image = cv2.cvtColor(image, code) if with_fourth else image
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    table = hsv_lut(np.array(gains))
    for row in hsv:
        for pixel in row:
            pixel[:] = [table[channel, level] for channel, level in enumerate(pixel)]
    expected = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[..., ::-1]
    np.testing.assert_array_equal(to_rgb(given_image, np.array(gains)), expected)


def test_colour_gains_are_drawn_within_their_strength_or_not_at_all() -> None:
    config = AugmentConfig(hsv_h=0.1, hsv_s=0.5, hsv_v=0.0)
    drawn = np.stack([hsv_gains(generator(0, "hsv", i), config) for i in range(200)])
    assert (np.abs(drawn - 1) <= [0.1, 0.5, 0.0]).all()
    assert (drawn.std(0)[:2] > [0.05, 0.25]).all()
    off = AugmentConfig(hsv_h=0.0, hsv_s=0.0, hsv_v=0.0)
    assert hsv_gains(generator(0, "hsv"), off) is None


def test_mixup_weighs_pixels_truncates_and_joins_labels() -> None:
    a, b = np.full((2, 2, 3), 100, np.uint8), np.full((2, 2, 3), 51, np.uint8)
    image, labels = mixup(a, labels_of((0, 0, 0, 1, 1)), b, labels_of((1, 0, 0, 2, 2)), 0.5)
    assert (image == 75).all()  # of 75.5
    assert labels[:, 0].tolist() == [0, 1]


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_mixup_is_the_truncated_sum_and_lies_between_its_pictures(seed: int, ratio: float) -> None:
    rng = generator(seed, "test")
    a, b = (rng.integers(0, 256, (8, 6, 4), np.uint8) for _ in range(2))
    b[0] = a[0]  # equal levels: the sum may fall just short of the level itself
    before = a.copy(), b.copy()
    mixed, _ = mixup(a, labels_of(), b, labels_of(), ratio)
    np.testing.assert_array_equal(mixed, (a * ratio + b * (1 - ratio)).astype(np.uint8))
    assert (mixed.astype(int) >= np.minimum(a, b).astype(int) - 1).all()
    assert (mixed <= np.maximum(a, b)).all()
    np.testing.assert_array_equal(a, before[0])
    np.testing.assert_array_equal(b, before[1])


def test_mixup_ratios_lie_around_one_half() -> None:
    ratios = [mixup_ratio(generator(0, "mixup", i)) for i in range(300)]
    assert np.mean(ratios) == pytest.approx(0.5, abs=0.02)
    assert np.std(ratios) == pytest.approx(0.5 / 65**0.5, rel=0.15)  # Beta(32, 32)


def test_flips_mirror_pixels_and_boxes() -> None:
    image = picture(10, 20)
    labels = labels_of((3, 1, 2, 5, 4))
    mirrored, moved = flip_left_right(image, labels)
    np.testing.assert_array_equal(mirrored, image[:, ::-1])
    np.testing.assert_array_equal(moved, [[3, 15, 2, 19, 4]])
    mirrored, moved = flip_up_down(image, labels)
    np.testing.assert_array_equal(mirrored, image[::-1])
    np.testing.assert_array_equal(moved, [[3, 1, 6, 5, 8]])


@pytest.mark.parametrize("flip", [flip_left_right, flip_up_down])
@settings(max_examples=30)
@given(labels=labels_inside(10, 20))
def test_a_flip_twice_is_no_flip(flip: Flip, labels: np.ndarray) -> None:
    image = picture(10, 20)
    before = labels.copy()
    twice_image, twice_labels = flip(*flip(image, labels))
    np.testing.assert_array_equal(twice_image, image)
    np.testing.assert_array_equal(twice_labels, labels)
    np.testing.assert_array_equal(labels, before)
    once = flip(image, labels)[1]
    assert (once[:, 3:] >= once[:, 1:3]).all()
