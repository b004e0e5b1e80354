import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.yolov5_core.small_index import index_of, picture
from yolov5_core.histograms import EDGES, Binned, binned


def only_bin(of: Binned) -> int:
    """The bin that all values are in."""
    (number,) = set(of.bin.tolist())
    return number


def reach(name: str, number: int) -> tuple[float, float]:
    return float(EDGES[name][number]), float(EDGES[name][number + 1])


def test_values_fall_between_the_edges_of_their_bin():
    box = (1, 0.5, 0.5, 0.25, 0.16)  # 160 x 76.8 pixels
    index = index_of(picture("a", boxes=[box], size_wh=(640, 480), brightness=100))
    bins = binned(index, 2)
    expected = {
        "box_size": 0.2,  # root of 0.04
        "box_aspect": 160 / 76.8,
        "brightness": 100,
        "image_size": 640,
        "boxes_per_picture": 1,
    }
    for name, value in expected.items():
        low, high = reach(name, only_bin(bins[name]))
        assert low <= value < high, name
    assert only_bin(bins["class"]) == 1


def test_counts_are_those_of_the_chosen_pictures():
    index = index_of(
        picture("a", boxes=[(0, 0.5, 0.5, 0.1, 0.1), (2, 0.5, 0.5, 0.1, 0.1)]),
        picture("b"),
        picture("c", boxes=[(2, 0.5, 0.5, 0.1, 0.1)]),
    )
    bins = binned(index, 3)
    assert bins["class"].counts(np.array([True, True, True])).tolist() == [1, 0, 2]
    assert bins["class"].counts(np.array([False, True, True])).tolist() == [0, 0, 1]
    assert bins["boxes_per_picture"].counts(np.array([True, True, True])).tolist()[:4] == [
        1,
        1,
        1,
        0,
    ]


def test_a_region_of_many_objects_is_no_box():
    box = (0, 0.5, 0.5, 0.1, 0.1)
    index = index_of(picture("a", boxes=[box], crowd=[box, box]), picture("b", crowd=[box]))
    bins, both = binned(index, 1), np.array([True, True])
    assert bins["class"].counts(both).tolist() == [1]
    assert bins["crowd"].counts(both).tolist() == [3]
    assert bins["crowd"].counts(np.array([False, True])).tolist() == [1]
    assert bins["boxes_per_picture"].counts(both).tolist()[:2] == [1, 1]
    assert bins["box_size"].counts(both).sum() == 1


@pytest.mark.parametrize("side", [224, 256, 300, 320, 416, 480, 512, 640, 800, 1024, 1280, 1920])
def test_one_pixel_does_not_move_a_usual_size(side: int):
    sizes = [
        only_bin(binned(index_of(picture("a", size_wh=(side + d, 100))), 0)["image_size"])
        for d in (-1, 0, 1)
    ]
    assert len(set(sizes)) == 1


def test_the_longer_side_counts():
    wide, high = (binned(index_of(picture("a", size_wh=s)), 0) for s in ((900, 50), (50, 900)))
    assert only_bin(wide["image_size"]) == only_bin(high["image_size"])


def test_almost_square_boxes_are_in_one_bin():
    boxes = [(0, 0.5, 0.5, 0.1, 0.1 * f) for f in (0.95, 1, 1.05)]
    only_bin(binned(index_of(picture("a", boxes=boxes, size_wh=(500, 500))), 1)["box_aspect"])


@given(
    st.lists(
        st.tuples(st.just(0), *(st.floats(0.0009765625, 1, width=32) for _ in range(4))),
        max_size=5,
    ),
    st.tuples(st.integers(10, 100_000), st.integers(10, 100_000)),
    st.floats(0, 255),
)
def test_every_value_is_in_a_bin_however_far_out(boxes, size_wh, brightness: float):
    index = index_of(picture("a", boxes=boxes, size_wh=size_wh, brightness=brightness))
    for name, bins in binned(index, 1).items():
        expected = {"crowd": 0}.get(name, len(boxes) if name.startswith(("box_", "class")) else 1)
        assert bins.counts(np.array([True])).sum() == expected
        assert len(bins.counts(np.array([True]))) == bins.num_bins
