import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from yolov5_core.boxes import (
    clip_boxes,
    covered_share,
    cxcywh_to_xyxy,
    denormalise,
    letterbox_geometry,
    normalise,
    pairwise_iou,
    rectangular_batches,
    resized_hw,
    round_up_image_size,
    segments_to_boxes,
    unletterbox,
    xyxy_to_cxcywh,
)

_SIDES = st.integers(10, 2000)


@st.composite
def boxes_xyxy(draw: st.DrawFn, side: float = 500.0) -> np.ndarray:
    points = draw(
        arrays(np.float64, st.tuples(st.integers(1, 5), st.just(4)), elements=st.floats(0, side))
    )
    low, high = np.minimum(points[:, :2], points[:, 2:]), np.maximum(points[:, :2], points[:, 2:])
    return np.concatenate((low, high), 1)


def test_corners_and_centres_are_two_views_of_one_box() -> None:
    corners, centre = np.array([[10.0, 20.0, 30.0, 60.0]]), np.array([[20.0, 40.0, 20.0, 40.0]])
    np.testing.assert_array_equal(xyxy_to_cxcywh(corners), centre)
    np.testing.assert_array_equal(cxcywh_to_xyxy(centre), corners)


def test_formats_convert_tensors_and_keep_their_gradient() -> None:
    centre = torch.tensor([[20.0, 40.0, 20.0, 40.0]], requires_grad=True)
    corners = cxcywh_to_xyxy(centre)
    assert corners.tolist() == [[10.0, 20.0, 30.0, 60.0]]
    corners.sum().backward()
    assert centre.grad is not None
    assert centre.grad.tolist() == [[2.0, 2.0, 0.0, 0.0]]
    assert clip_boxes(corners.detach(), 25, 50).tolist() == [[10.0, 20.0, 25.0, 50.0]]


@given(boxes_xyxy())
def test_converting_there_and_back_changes_nothing(boxes: np.ndarray) -> None:
    np.testing.assert_allclose(cxcywh_to_xyxy(xyxy_to_cxcywh(boxes)), boxes, atol=1e-9)


@given(boxes_xyxy(), _SIDES, _SIDES)
def test_normalising_there_and_back_changes_nothing(
    boxes: np.ndarray, width: int, height: int
) -> None:
    back = denormalise(normalise(boxes, width, height), width, height)
    np.testing.assert_allclose(back, boxes, atol=1e-8)


def test_normalising_with_a_margin_keeps_centres_off_the_far_edge() -> None:
    boxes = np.array([[90.0, 90.0, 300.0, 300.0], [100.0, 100.0, 200.0, 200.0]])
    centres = normalise(boxes, 100, 100, clip_margin=1e-3)
    assert (centres[:, :2] < 1).all()
    assert centres[0, 2] == pytest.approx(0.09999)


@given(boxes_xyxy(), st.floats(1, 600), st.floats(1, 600))
def test_clipped_boxes_lie_inside_and_the_input_stays(
    boxes: np.ndarray, width: float, height: float
) -> None:
    before = boxes.copy()
    clipped = clip_boxes(boxes, width, height)
    assert (clipped >= 0).all()
    assert (clipped <= [width, height, width, height]).all()
    np.testing.assert_array_equal(boxes, before)


def test_overlap_of_a_half_covered_square_is_a_third() -> None:
    a = np.array([[0.0, 0.0, 10.0, 10.0]])
    b = np.array([[5.0, 0.0, 15.0, 10.0], [20.0, 20.0, 30.0, 30.0], [0.0, 0.0, 10.0, 10.0]])
    np.testing.assert_allclose(pairwise_iou(a, b), [[1 / 3, 0, 1]], atol=1e-6)


def test_a_box_without_area_overlaps_nothing() -> None:
    point = np.array([[5.0, 5.0, 5.0, 5.0]])
    np.testing.assert_array_equal(pairwise_iou(point, point), [[0.0]])


@given(boxes_xyxy(), boxes_xyxy())
def test_overlap_is_symmetric_and_within_0_and_1(a: np.ndarray, b: np.ndarray) -> None:
    iou = pairwise_iou(a, b)
    assert ((iou >= 0) & (iou <= 1)).all()
    np.testing.assert_array_equal(iou, pairwise_iou(b, a).T)


def test_covered_share_is_measured_on_the_other_box() -> None:
    box = np.array([0.0, 0.0, 100.0, 100.0])
    others = np.array([[50.0, 50.0, 150.0, 150.0], [10.0, 10.0, 20.0, 20.0]])
    np.testing.assert_allclose(covered_share(box, others), [0.25, 1.0])


def test_a_polygon_becomes_the_box_around_it() -> None:
    triangle = np.array([[0.1, 0.2], [0.5, 0.2], [0.3, 0.6]])
    np.testing.assert_allclose(segments_to_boxes([triangle]), [[0.3, 0.4, 0.4, 0.4]])
    assert segments_to_boxes([]).shape == (0, 4)


def test_a_wide_image_is_letterboxed_above_and_below() -> None:
    geometry = letterbox_geometry((480, 640), (320, 320))
    assert geometry.ratio == (0.5, 0.5)
    assert geometry.unpadded_wh == (320, 240)
    assert geometry.pad == (0, 40)
    assert (geometry.top, geometry.bottom, geometry.left, geometry.right) == (40, 40, 0, 0)


def test_an_odd_pixel_of_padding_goes_below() -> None:
    geometry = letterbox_geometry((99, 100), (100, 100))
    assert (geometry.pad, geometry.top, geometry.bottom) == ((0, 0.5), 0, 1)


@given(_SIDES, _SIDES, _SIDES, _SIDES, st.booleans())
def test_a_letterboxed_image_fills_its_canvas_exactly(
    height: int, width: int, new_height: int, new_width: int, scaleup: bool
) -> None:
    geometry = letterbox_geometry((height, width), (new_height, new_width), scaleup=scaleup)
    assert geometry.canvas_hw == (new_height, new_width)


@given(boxes_xyxy(side=10.0), _SIDES, _SIDES, _SIDES, _SIDES)
def test_boxes_return_from_a_letterbox_to_where_they_were(
    boxes: np.ndarray, height: int, width: int, new_height: int, new_width: int
) -> None:
    # the exact ratio, without the rounding of the resized image
    gain = min(new_height / height, new_width / width)
    pad = ((new_width - width * gain) / 2, (new_height - height * gain) / 2)
    on_canvas = boxes * gain + [*pad, *pad]
    back = unletterbox(on_canvas, (new_height, new_width), (height, width))
    np.testing.assert_allclose(back, boxes, atol=1e-6)
    stored = unletterbox(on_canvas, (1, 1), (height, width), ((gain, gain), pad))
    np.testing.assert_allclose(stored, boxes, atol=1e-6)


def test_boxes_returned_from_a_letterbox_are_cut_to_the_image() -> None:
    canvas_box = np.array([[-5.0, 0.0, 700.0, 640.0]])
    native = unletterbox(canvas_box, (640, 640), (480, 640))
    np.testing.assert_array_equal(native, [[0, 0, 640, 480]])


def test_the_longer_side_is_resized_and_the_shorter_rounded_up() -> None:
    assert resized_hw((90, 60), 64) == (64, 43)
    assert resized_hw((64, 33), 64) == (64, 33)


def test_rectangular_batches_group_by_shape() -> None:
    # aspects 1, 0.5, 2, 0.5 -> sorted 0.5 0.5 | 1 2
    shapes_wh = np.array([[100, 100], [200, 100], [100, 200], [400, 200]])
    batches = rectangular_batches(shapes_wh, batch_size=2, image_size=64, stride=32, pad=0.0)
    assert batches.order.tolist() == [1, 3, 0, 2]
    assert batches.batch_of_image.tolist() == [0, 0, 1, 1]
    assert batches.shapes_hw.tolist() == [[32, 64], [64, 64]]


@given(
    st.lists(st.tuples(_SIDES, _SIDES), min_size=1, max_size=12),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.5]),
)
def test_every_image_fits_its_rectangular_batch(
    shapes: list[tuple[int, int]], batch_size: int, pad: float
) -> None:
    shapes_wh = np.array(shapes)
    batches = rectangular_batches(shapes_wh, batch_size, 64, 32, pad)
    assert sorted(batches.order.tolist()) == list(range(len(shapes)))
    assert (batches.shapes_hw % 32 == 0).all()
    for image, batch in zip(batches.order, batches.batch_of_image, strict=True):
        width, height = shapes_wh[image] * 64 / max(shapes_wh[image])
        assert (np.array((height, width)) <= batches.shapes_hw[batch] + 1e-6).all()


def test_image_sizes_are_rounded_up_to_the_stride() -> None:
    assert [round_up_image_size(size, 32) for size in (640, 641, 1)] == [640, 672, 32]
    assert round_up_image_size(32, 32, floor=64) == 64
