from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolov5_core.boxes import covered_share
from yolov5_core.dataset import NO_SEGMENT
from yolov5_core.mosaic import (
    Corner,
    Tile,
    Window,
    choose_copies,
    copy_paste,
    corners4,
    corners9,
    draw_mosaic9_crop,
    draw_mosaic_center,
    is_seen,
    mirrored_window,
    new_canvas,
    paint,
    place_labels,
)
from yolov5_core.randomness import generator

_SQUARE = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)


def whole(side: int) -> Window:
    return Window(0, 0, side, side)


def full_tile(number: int, height: int, width: int) -> Tile:
    """One label over the whole area, with a polygon around it."""
    return Tile((height, width), np.array([[number, 0.5, 0.5, 1, 1]], np.float32), [_SQUARE])


def painted(
    sizes_hw: Sequence[tuple[int, int]], corners: Sequence[Corner], side: int, window: Window
) -> np.ndarray:
    """The canvas (side, side, 3) with tile i in colour i."""
    canvas = new_canvas(side, window)
    for number, (size_hw, corner) in enumerate(zip(sizes_hw, corners, strict=True)):
        paint(canvas, np.full((*size_hw, 3), number, np.uint8), corner, window)
    return canvas[..., :3]


def labels_of(
    sizes_hw: Sequence[tuple[int, int]], corners: Sequence[Corner], side: int
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    tiles = [full_tile(number, *size_hw) for number, size_hw in enumerate(sizes_hw)]
    return place_labels(tiles, corners, side)


# ---- four ------------------------------------------------------------------------------------


def test_four_tiles_meet_at_the_centre() -> None:
    sizes = [(8, 8)] * 4
    corners = corners4(sizes, (8, 8))
    canvas = painted(sizes, corners, 16, whole(16))
    labels, segments = labels_of(sizes, corners, 16)
    assert canvas.shape == (16, 16, 3)
    assert canvas[[0, 0, 15, 15], [0, 15, 0, 15], 0].tolist() == [0, 1, 2, 3]
    assert labels.tolist() == [
        [0, 0, 0, 8, 8],
        [1, 8, 0, 16, 8],
        [2, 0, 8, 8, 16],
        [3, 8, 8, 16, 16],
    ]
    np.testing.assert_array_equal(segments[3], [[8, 8], [16, 8], [16, 16], [8, 16]])


def test_tiles_are_cropped_at_the_canvas_and_grey_where_none_reaches() -> None:
    sizes = [(4, 8), (8, 8), (8, 8), (8, 8)]
    corners = corners4(sizes, (6, 6))
    canvas = painted(sizes, corners, 16, whole(16))
    labels, _ = labels_of(sizes, corners, 16)
    assert canvas[3, 0, 0] == 0
    assert canvas[0, 0, 0] == 114  # above the low tile
    assert canvas[0, 15, 0] == 114  # right of the second
    assert labels[0].tolist() == [0, 0, 2, 6, 6]
    assert labels[1].tolist() == [1, 6, 0, 14, 6]


# ---- nine ------------------------------------------------------------------------------------


def test_nine_tiles_lie_around_the_first_clockwise_from_above() -> None:
    corners = corners9([(8, 8)] * 9, 8, (0, 0))
    # columns 0, 8, 16 and rows 0, 8, 16 of a canvas of 24
    assert corners == [
        (8, 8),
        (8, 0),
        (16, 0),
        (16, 8),
        (16, 16),
        (8, 16),
        (0, 16),
        (0, 8),
        (0, 0),
    ]


def test_nine_tiles_of_different_sizes_touch_their_neighbours() -> None:
    sizes = [(8, 6), (5, 4), (7, 8), (3, 8), (8, 2), (6, 5), (8, 3), (4, 7), (8, 8)]
    assert corners9(sizes, 8, (2, 1)) == [
        (8 - 2, 8 - 1),
        (8 - 2, 8 - 5 - 1),  # stands on the middle one
        (8 + 4 - 2, 8 - 7 - 1),  # right of the top one
        (8 + 6 - 2, 8 - 1),  # right of the middle one
        (8 + 6 - 2, 8 + 3 - 1),  # below the right one
        (8 + 6 - 5 - 2, 8 + 8 - 1),  # below the middle one, ends where it ends
        (8 + 6 - 5 - 3 - 2, 8 + 8 - 1),  # left of the bottom one
        (8 - 7 - 2, 8 + 8 - 4 - 1),  # left of the middle one, ends where it ends
        (8 - 8 - 2, 8 + 8 - 4 - 8 - 1),  # above the left one
    ]


def test_a_crop_of_nine_begins_in_its_first_third() -> None:
    crops = np.array([draw_mosaic9_crop(generator(0, "crop", i), 16) for i in range(300)])
    assert crops.min() == 0
    assert crops.max() == 15
    assert (crops[:, 0] != crops[:, 1]).any()


# ---- both ------------------------------------------------------------------------------------

_SIDE = st.integers(1, 16)


@settings(max_examples=100)
@given(
    st.sampled_from([4, 9]).flatmap(
        lambda n: st.lists(st.tuples(_SIDE, _SIDE), min_size=n, max_size=n)
    ),
    st.integers(0, 10**6),
)
def test_mosaic_labels_lie_on_the_canvas_where_their_colour_is(
    sizes: list[tuple[int, int]], seed: int
) -> None:
    rng = generator(seed, "test")
    if len(sizes) == 4:
        x, y = draw_mosaic_center(rng, 16)
        assert 8 <= x < 24
        assert 8 <= y < 24
        corners = corners4(sizes, (x, y))
    else:
        corners = corners9(sizes, 16, draw_mosaic9_crop(rng, 16))
    canvas = painted(sizes, corners, 32, whole(32))
    labels, segments = labels_of(sizes, corners, 32)
    assert len(segments) == len(labels) == len(sizes)
    for place, (x1, y1, x2, y2) in enumerate(labels[:, 1:].astype(int).tolist()):
        assert 0 <= x1 <= x2 <= 32
        assert 0 <= y1 <= y2 <= 32
        assert (canvas[y1:y2, x1:x2] == place).all()
        assert (x2 - x1) * (y2 - y1) == (canvas == place).all(2).sum()
        corner_points = [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]
        np.testing.assert_array_equal(segments[place], corner_points)


@settings(max_examples=60)
@given(st.data())
def test_a_window_holds_what_the_whole_canvas_holds_there(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.tuples(_SIDE, _SIDE), min_size=4, max_size=4))
    corners = corners4(sizes, data.draw(st.tuples(st.integers(8, 23), st.integers(8, 23))))
    left, right = sorted(data.draw(st.tuples(st.integers(0, 32), st.integers(0, 32))))
    top, bottom = sorted(data.draw(st.tuples(st.integers(0, 32), st.integers(0, 32))))
    window = Window(left, top, right, bottom)
    seen = painted(sizes, corners, 32, window)[top:bottom, left:right]
    plain = painted(sizes, corners, 32, whole(32))
    np.testing.assert_array_equal(seen, plain[top:bottom, left:right])
    for number, (size_hw, corner) in enumerate(zip(sizes, corners, strict=True)):
        assert is_seen(size_hw, corner, window) == bool((seen == number).any())


def test_labels_without_polygons_keep_none_beside_labels_with_one() -> None:
    both = Tile((4, 4), np.array([[0, 0.5, 0.5, 1, 1]] * 2, np.float32), [NO_SEGMENT, _SQUARE])
    none = Tile((4, 4), np.array([[1, 0.5, 0.5, 1, 1]], np.float32), [NO_SEGMENT])
    empty = Tile((4, 4), np.zeros((0, 5), np.float32), [])
    labels, segments = place_labels([both, none, empty, none], [(0, 0)] * 4, 8)
    assert labels[:, 0].tolist() == [0, 0, 1, 1]
    assert [len(segment) for segment in segments] == [0, 4, 0, 0]


def test_placing_and_painting_leave_tiles_as_they_were() -> None:
    image, tile = np.full((8, 8, 3), 7, np.uint8), full_tile(7, 8, 8)
    labels, segments = place_labels([tile], [(-4, 2)], 16)
    labels += 1
    segments[0][:] = 0
    canvas = new_canvas(16, whole(16))
    paint(canvas, image, (-4, 2), whole(16))
    canvas[:] = 0
    assert (image == 7).all()
    assert tile.labels_cxcywh.tolist() == [[7, 0.5, 0.5, 1, 1]]
    assert tile.segments_normalised[0].max() == 1


# ---- copy-paste ------------------------------------------------------------------------------


def test_an_object_is_pasted_at_its_mirror_place() -> None:
    image = np.zeros((20, 40, 3), np.uint8)
    image[5:11, 2:9] = 200
    square = np.array([[2, 5], [8, 5], [8, 10], [2, 10]], np.float32)
    labels = np.array([[1, 2, 5, 8, 10]], np.float32)
    pasted, more, segments = copy_paste(image, labels, [square], [0])
    assert more.tolist() == [[1, 2, 5, 8, 10], [1, 32, 5, 38, 10]]
    assert segments[1][:, 0].tolist() == [38, 32, 32, 38]
    np.testing.assert_array_equal(pasted, np.maximum(image, image[:, ::-1]))
    assert image[:, 20:].max() == 0  # the input stays


def test_a_copy_that_would_hide_an_object_is_not_pasted() -> None:
    image = np.zeros((20, 40, 3), np.uint8)
    middle = np.array([[15, 5], [25, 5], [25, 10]], np.float32)  # its mirror lies on itself
    labels = np.array([[1, 15, 5, 25, 10]], np.float32)
    same_image, same_labels, segments = copy_paste(image, labels, [middle], [0])
    assert same_image is image
    assert same_labels is labels
    assert len(segments) == 1


def slow_copy_paste(
    image: np.ndarray, labels: np.ndarray, segments: Sequence[np.ndarray], chosen: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Spec C.8 word by word: one mask of all, then one choice between two whole pictures."""
    width = image.shape[1]
    mask = np.zeros(image.shape[:2], np.uint8)
    for i in chosen:
        cls, x1, y1, x2, y2 = labels[i].tolist()
        mirrored = np.array([cls, width - x2, y1, width - x1, y2], np.float32)
        if all(covered_share(mirrored[1:], row[None, 1:])[0] < 0.3 for row in labels):
            labels = np.concatenate((labels, mirrored[None]))
            cv2.drawContours(mask, [segments[i].astype(np.int32)], -1, 1, cv2.FILLED)
    return np.where(mask[:, ::-1, None], image[:, ::-1], image), labels


@settings(max_examples=80)
@given(st.integers(0, 10**6), st.integers(0, 6), st.sampled_from([3, 4]))
def test_only_accepted_copies_are_pasted(seed: int, count: int, channels: int) -> None:
    rng = generator(seed, "test")
    image = rng.integers(0, 256, (40, 60, channels), np.uint8)
    points = rng.uniform(0, (60, 40), (count, 5, 2)).astype(np.float32)
    points = points.mean(1, keepdims=True) * 0.5 + points * 0.5  # small enough to be accepted
    labels = np.concatenate((np.arange(count)[:, None], points.min(1), points.max(1)), axis=1)
    labels = labels.astype(np.float32).reshape(-1, 5)
    before = image.copy(), labels.copy(), points.copy()
    chosen = choose_copies(rng, 0.7, list(points))

    pasted, more, segments = copy_paste(image, labels, list(points), chosen)

    slow_pasted, slow_labels = slow_copy_paste(image, labels, list(points), chosen)
    np.testing.assert_array_equal(pasted, slow_pasted)
    np.testing.assert_array_equal(more, slow_labels)
    for row, segment in zip(more, segments, strict=True):
        np.testing.assert_allclose(row[1:], [*segment.min(0), *segment.max(0)], atol=1e-4)
    for ours, theirs in zip((image, labels, points), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("probability", "count"), [(0.0, 0), (0.5, 2), (1.0, 3)])
def test_copies_are_drawn_once_each_among_labels_with_a_polygon(
    probability: float, count: int
) -> None:
    outline = np.ones((3, 2), np.float32)
    chosen = choose_copies(
        generator(0, "copies"),
        probability,
        [NO_SEGMENT, outline, outline, NO_SEGMENT, outline],
    )
    assert len(chosen) == len(set(chosen)) == count  # round(0.5 * 3) is 2
    assert set(chosen) <= {1, 2, 4}


def test_a_window_and_its_mirror_image_fit_into_the_mirrored_window() -> None:
    assert mirrored_window(Window(2, 3, 10, 7), 20) == Window(2, 3, 18, 7)
    assert mirrored_window(Window(12, 3, 19, 7), 20) == Window(1, 3, 19, 7)
    assert mirrored_window(whole(20), 20) == whole(20)
