import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov5_core.boxes import clip_boxes, normalise
from yolov5_core.pixel_boxes import AnnotationError, BoxKinds, PixelBoxes

KINDS = BoxKinds(no_area="flat", outside="outside", clipped="clipped", duplicate="twice")


def boxes(size_wh: tuple[int, int] = (200, 100)) -> PixelBoxes:
    return PixelBoxes(size_wh=size_wh, kinds=KINDS)


def refusal(found: PixelBoxes, *box: float) -> tuple[str, str]:
    with pytest.raises(AnnotationError) as caught:
        found.row(0, box, "here")
    return caught.value.kind, str(caught.value)


def test_a_box_becomes_class_and_fractions() -> None:
    found = boxes()
    row = found.row(3, (20, 10, 120, 60), "here")
    np.testing.assert_array_equal(row, np.float32([3, 0.35, 0.35, 0.5, 0.5]))
    assert row.dtype == np.float32
    assert found.faults == []


def test_a_box_is_cut_to_the_picture_and_only_more_than_half_a_pixel_is_worth_a_word() -> None:
    found = boxes()
    np.testing.assert_array_equal(found.row(0, (-0.5, 0, 100, 100.5), "a")[1:], [0.25, 0.5, 0.5, 1])
    assert found.faults == []
    np.testing.assert_array_equal(
        found.row(0, (-20, 50, 40, 150), "b")[1:], np.float32([0.1, 0.75, 0.2, 0.5])
    )
    (fault,) = found.faults
    assert (fault.kind, fault.where) == ("clipped", "b")
    assert fault.reason.endswith("cut to the picture of 200x100 pixels")


def test_a_box_without_area_or_outside_is_refused() -> None:
    assert refusal(boxes(), 5, 5, 5, 9) == (
        "flat",
        "box 5 5 5 9 (left top right bottom, pixels) has no area",
    )
    assert refusal(boxes(), 5, 5, 9, 1)[0] == "flat"
    assert refusal(boxes(), 0, 0, 1e-60, 1)[1].endswith("has no area within the picture")
    assert refusal(boxes(), 200, 0, 210, 9)[0] == "outside"
    assert refusal(boxes(), 0, -9, 9, 0)[0] == "outside"


def test_the_same_row_for_the_second_time_is_refused_and_names_the_first() -> None:
    found = boxes()
    found.row(0, (1, 1, 9, 9), "first")
    found.row(1, (1, 1, 9, 9), "another class")
    assert refusal(found, 1, 1, 9, 9) == ("twice", "the same class and box as first")


_SIDE = st.floats(-100, 300)


@given(st.tuples(_SIDE, _SIDE, _SIDE, _SIDE))
def test_a_row_is_that_of_the_array_functions(corners: tuple[float, ...]) -> None:
    try:
        row = boxes().row(0, corners, "here")
    except AnnotationError:
        return
    expected = normalise(clip_boxes(np.array(corners), 200, 100), 200, 100)
    np.testing.assert_array_equal(row[1:], expected.astype(np.float32))
