import numpy as np
import pytest

from yolov5_core.paint import background, draw_clutter, paint_shape, photograph
from yolov5_core.randomness import generator


@pytest.mark.parametrize("index", range(8))
def test_a_background_is_finite_and_fills_the_asked_shape(index: int):
    ground = background(generator(0, "test", index), 40, 60)
    assert ground.shape == (40, 60, 3)
    assert ground.dtype == np.float32
    assert np.isfinite(ground).all()
    assert ground.std() > 0


@pytest.mark.parametrize("index", range(8))
def test_a_shape_covers_its_mask_and_shades_only_its_surroundings(index: int):
    mask = np.zeros((100, 100), np.float32)
    mask[40:60, 30:50] = 1
    canvas = np.full((100, 100, 3), 128, np.float32)
    paint_shape(generator(0, "test", index), canvas, mask)
    assert (canvas[40:60, 30:50] != 128).any(axis=2).mean() > 0.95
    assert (canvas[:30] == 128).all()
    assert (canvas[:, 60:] == 128).all()
    assert canvas.min() >= 0
    assert canvas.max() <= 255


def test_a_photograph_is_bytes_and_leaves_the_canvas_as_it_was():
    canvas = np.full((40, 60, 3), 300, np.float32)  # beyond white: clipped, not wrapped
    before = canvas.copy()
    picture = photograph(generator(0, "test"), canvas)
    assert picture.shape == (40, 60, 3)
    assert picture.dtype == np.uint8
    assert picture.mean() > 150
    assert np.array_equal(canvas, before)


def test_clutter_is_drawn_into_the_canvas_and_stays_in_range():
    canvas = np.full((60, 60, 3), 128, np.float32)
    for index in range(6):
        draw_clutter(generator(0, "test", index), canvas)
    assert (canvas != 128).any()
    assert canvas.min() >= 0
    assert canvas.max() <= 255
