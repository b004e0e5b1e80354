import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from yolov5_core.boxes import cxcywh_to_xyxy, pairwise_iou
from yolov5_core.config import IouKind
from yolov5_core.iou import paired_iou

places = st.floats(-10, 10, width=32)
sizes = st.floats(0.125, 20, width=32)
boxes = st.tuples(places, places, sizes, sizes)
KINDS: tuple[IouKind, ...] = ("ciou", "giou")


def one(kind: IouKind, a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return paired_iou(torch.tensor([a]), torch.tensor([b]), kind).item()


def test_two_unit_boxes_side_by_side():
    a, b = (0.5, 0.5, 1.0, 1.0), (1.5, 0.5, 1.0, 1.0)
    assert one("giou", a, b) == pytest.approx(0, abs=1e-6)  # hull 2, union 2
    assert one("ciou", a, b) == pytest.approx(-1 / 5)  # distance 1, hull diagonal 1 + 4


def test_two_boxes_a_box_apart():
    a, b = (0.5, 0.5, 1.0, 1.0), (2.5, 0.5, 1.0, 1.0)
    assert one("giou", a, b) == pytest.approx(-1 / 3)  # hull 3, union 2
    assert one("ciou", a, b) == pytest.approx(-4 / 10)


def test_a_box_in_the_middle_of_another_of_other_shape():
    # 2 x 1 inside 2 x 4: IoU 1/4, same centre; v = 4/pi^2 (atan(2) - atan(1/2))^2
    v = 4 / math.pi**2 * (math.atan(2) - math.atan(0.5)) ** 2
    expected = 0.25 - v * v / (1 - 0.25 + v)
    assert one("ciou", (0, 0, 2, 1), (0, 0, 2, 4)) == pytest.approx(expected)


@given(a=boxes, kind=st.sampled_from(KINDS))
def test_a_box_with_itself_is_one(a: tuple[float, ...], kind: IouKind):
    assert one(kind, a, a) == pytest.approx(1, abs=1e-4)


@given(a=boxes, b=boxes, kind=st.sampled_from(KINDS))
def test_it_is_symmetric_and_never_above_the_plain_iou(
    a: tuple[float, ...], b: tuple[float, ...], kind: IouKind
):
    value = one(kind, a, b)
    corners = cxcywh_to_xyxy(torch.tensor([a, b], dtype=torch.float64).numpy())
    plain = pairwise_iou(corners[:1], corners[1:]).item()
    assert value == pytest.approx(one(kind, b, a), abs=1e-4)
    assert -2.1 < value <= plain + 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_a_box_apart_is_pulled_towards_its_target(kind: IouKind):
    predicted = torch.tensor([[3.0, 0.0, 1.0, 1.0]], requires_grad=True)
    (1 - paired_iou(predicted, torch.zeros(1, 4) + torch.tensor([0, 0, 1, 1.0]), kind)).backward()
    assert predicted.grad is not None
    assert predicted.grad[0, 0] > 0  # descending moves x towards 0


def test_the_weight_of_the_aspect_term_carries_no_gradient():
    a = torch.tensor([[0.0, 0.0, 2.0, 1.0]], dtype=torch.float64)
    target = torch.tensor([[0.0, 0.0, 2.0, 4.0]], dtype=torch.float64)
    predicted = a.clone().requires_grad_()
    paired_iou(predicted, target, "ciou").backward()
    v = 4 / math.pi**2 * (math.atan(2) - math.atan(0.5)) ** 2
    alpha = v / (1 - 0.25 + v)

    def with_fixed_alpha(h: float) -> float:
        aspect = 4 / math.pi**2 * (math.atan(0.5) - math.atan(2 / h)) ** 2
        return 2 * h / 8 - alpha * aspect

    slope = (with_fixed_alpha(1 + 1e-6) - with_fixed_alpha(1 - 1e-6)) / 2e-6
    assert predicted.grad is not None
    assert predicted.grad[0, 3].item() == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0)])
def test_a_predicted_box_without_area_gives_a_finite_value_and_gradient(kind: IouKind, size):
    predicted = torch.tensor([[0.0, 0.0, *size]], requires_grad=True)
    value = paired_iou(predicted, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), kind)
    value.sum().backward()
    assert value.isfinite().all()
    assert predicted.grad is not None
    assert predicted.grad.isfinite().all()
