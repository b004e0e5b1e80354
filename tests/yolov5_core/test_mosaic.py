import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolov5_core.mosaic import Tile, choose_copies, copy_paste, draw_mosaic_center, mosaic4
from yolov5_core.randomness import generator

_NONE = np.zeros((0, 2), np.float32)


def plain_tile(colour: int, height: int, width: int) -> Tile:
    """One colour, one label over its whole area, with a polygon around it."""
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    label = np.array([[colour, 0.5, 0.5, 1, 1]], np.float32)
    return Tile(np.full((height, width, 3), colour, np.uint8), label, [corners])


def test_four_tiles_meet_at_the_centre() -> None:
    tiles = [plain_tile(i, 8, 8) for i in range(4)]
    canvas, labels, segments = mosaic4(tiles, (8, 8), 8)
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
    tiles = [plain_tile(1, 4, 8), *(plain_tile(i, 8, 8) for i in (2, 3, 4))]
    canvas, labels, _ = mosaic4(tiles, (6, 6), 8)
    assert canvas[3, 0, 0] == 1
    assert canvas[0, 0, 0] == 114  # above the low tile
    assert canvas[0, 15, 0] == 114  # right of the second
    assert labels[0].tolist() == [1, 0, 2, 6, 6]
    assert labels[1].tolist() == [2, 6, 0, 14, 6]


_SIDE = st.integers(1, 16)


@settings(max_examples=50)
@given(st.lists(st.tuples(_SIDE, _SIDE), min_size=4, max_size=4), st.integers(0, 10**6))
def test_mosaic_labels_lie_on_the_canvas_where_their_colour_is(
    shapes: list[tuple[int, int]], seed: int
) -> None:
    tiles = [plain_tile(i, *shape) for i, shape in enumerate(shapes)]
    x, y = draw_mosaic_center(generator(seed, "center"), 16)
    assert 8 <= x < 24
    assert 8 <= y < 24
    canvas, labels, segments = mosaic4(tiles, (x, y), 16)
    assert len(segments) == len(labels) == 4
    for place, (x1, y1, x2, y2) in enumerate(labels[:, 1:].astype(int).tolist()):
        assert 0 <= x1 <= x2 <= 32
        assert 0 <= y1 <= y2 <= 32
        assert (canvas[y1:y2, x1:x2] == place).all()
        assert (x2 - x1) * (y2 - y1) == (canvas == place).all(2).sum()


def test_a_mosaic_leaves_its_tiles_as_they_were() -> None:
    tile = plain_tile(7, 8, 8)
    mosaic4([tile] * 4, (8, 8), 8)
    assert (tile.image == 7).all()
    assert tile.labels_cxcywh.tolist() == [[7, 0.5, 0.5, 1, 1]]
    assert tile.segments_normalised[0].max() == 1


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


@pytest.mark.parametrize(("probability", "count"), [(0.0, 0), (0.5, 2), (1.0, 3)])
def test_copies_are_drawn_once_each_among_labels_with_a_polygon(
    probability: float, count: int
) -> None:
    outline = np.ones((3, 2), np.float32)
    chosen = choose_copies(
        generator(0, "copies"), probability, [_NONE, outline, outline, _NONE, outline]
    )
    assert len(chosen) == len(set(chosen)) == count  # round(0.5 * 3) is 2
    assert set(chosen) <= {1, 2, 4}
