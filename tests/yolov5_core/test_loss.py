import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.tiny import tiny_description
from yolov5_core.config import LossConfig
from yolov5_core.iou import paired_iou
from yolov5_core.loss import Assignment, DetectionLoss, assign, decode_in_cell, sent
from yolov5_core.model import Detector

PLAIN = LossConfig(box=1.0, obj=1.0, cls=1.0)
LN2 = math.log(2)


def one_level(num_classes: int = 2, **changes: Any) -> DetectionLoss:
    """One anchor of 2 x 2 cells on one level of stride 16."""
    config = replace(PLAIN, **changes)
    return DetectionLoss(torch.tensor([[[2.0, 2.0]]]), torch.tensor([16.0]), num_classes, config)


def target(*rows: tuple[float, ...]) -> Tensor:
    """Rows image, class, cx, cy, w, h, normalised."""
    return torch.tensor(rows).view(-1, 6)


def cells(found: Assignment) -> list[tuple[int, int]]:
    return list(zip(found.row.tolist(), found.column.tolist(), strict=True))


def assigned(x: float, y: float, size: int = 4) -> Assignment:
    """The cells of one target, at x, y in cells, on a grid of size x size."""
    rows = target((0, 0, x / size, y / size, 2 / size, 2 / size))
    return assign(torch.tensor([[[2.0, 2.0]]]), [(size, size)], rows, 4.0)[0]


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (1.5, 1.5, [(1, 1)]),  # a fraction of exactly a half has no neighbour
        (1.25, 1.25, [(1, 1), (1, 0), (0, 1)]),  # own, left, upper
        (1.75, 1.75, [(1, 1), (1, 2), (2, 1)]),  # own, right, lower
        (1.25, 1.75, [(1, 1), (1, 0), (2, 1)]),
        (0.25, 0.25, [(0, 0)]),  # nothing beyond the border
        (3.75, 3.75, [(3, 3)]),
    ],
)
def test_a_target_belongs_to_its_cell_and_the_nearer_neighbours(
    x: float, y: float, expected: list[tuple[int, int]]
):
    assert cells(assigned(x, y)) == expected


def test_a_target_at_exactly_one_stays_in_the_last_cell():
    found = assigned(4.0, 4.0)
    assert cells(found)[0] == (3, 3)
    assert found.box[0].tolist() == [1, 1, 2, 2]
    assert all(row < 4 and column < 4 for row, column in cells(found))


def test_a_target_four_times_an_anchor_no_longer_matches_it():
    anchors = torch.tensor([[[2.0, 2.0]]])

    def matches(width: float) -> int:
        rows = target((0, 0, 0.5 / 64, 0.5 / 64, width / 64, 2 / 64))
        return len(assign(anchors, [(64, 64)], rows, 4.0)[0].image)

    assert (matches(8.0), matches(7.9), matches(0.5), matches(0.6)) == (0, 1, 0, 1)


def test_assignments_come_by_offset_then_anchor_then_target():
    anchors = torch.tensor([[[2.0, 2.0], [3.0, 3.0]]])
    rows = target(*((image, 5 + image, 1.25 / 4, 1.5 / 4, 0.5, 0.5) for image in (0, 1)))
    found = assign(anchors, [(4, 4)], rows, 4.0)[0]
    assert found.column.tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert found.anchor.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert found.cls.tolist() == [5, 6] * 4
    assert found.image.tolist() == [0, 1] * 4


def test_the_loss_of_one_target_by_hand():
    # A 2 x 2 grid, all logits 0: the box of cell (0, 0) is centred at 0.5 with the anchor's size.
    # The target is 1 x 1 there: IoU 1/4, same centre and shape, so CIoU = 1/4.
    raw = torch.zeros(1, 1, 2, 2, 7)
    total, items = one_level()([raw], target((0, 1, 0.25, 0.25, 0.5, 0.5)))
    box = 1 - 0.25
    obj = 4.0 * LN2  # the finest level weighs 4; BCE of logit 0 is ln 2 whatever the target
    assert items.tolist() == pytest.approx([box, obj, LN2], rel=1e-5)
    assert total.item() == pytest.approx(box + obj + LN2, rel=1e-5)
    assert total.shape == (1,)


def test_objectness_learns_the_iou_itself():
    raw = torch.zeros(1, 1, 2, 2, 7, requires_grad=True)
    total, _ = one_level()([raw], target((0, 1, 0.25, 0.25, 0.5, 0.5)))
    total.backward()
    assert raw.grad is not None
    # gradient of the mean BCE over 4 cells, times balance 4: sigmoid(0) - target
    assert raw.grad[0, 0, :, :, 4].flatten().tolist() == pytest.approx([0.25, 0.5, 0.5, 0.5])


def test_the_total_counts_the_batch_and_the_items_do_not():
    one = [torch.zeros(1, 1, 2, 2, 7)]
    three = [torch.zeros(3, 1, 2, 2, 7)]
    rows = target(*((image, 1, 0.25, 0.25, 0.5, 0.5) for image in range(3)))
    total, items = one_level()(one, rows[:1])
    total_three, items_three = one_level()(three, rows)
    assert items_three.tolist() == pytest.approx(items.tolist())
    assert total_three.item() == pytest.approx(3 * total.item())


def test_images_without_targets_teach_only_that_nothing_is_there():
    raw = torch.full((2, 1, 2, 2, 7), -1.0, requires_grad=True)
    total, items = one_level()([raw], target())
    assert items.tolist() == pytest.approx([0, 4 * math.log(1 + math.exp(-1)), 0])
    total.backward()
    assert raw.grad is not None
    assert raw.grad[..., :4].abs().sum() == 0


def test_of_two_targets_in_one_cell_the_last_decides_the_objectness():
    small, large = (0.0, 0.0, 0.25, 0.25, 0.5, 0.5), (0.0, 1.0, 0.25, 0.25, 1.0, 1.0)
    # IoU with the 2 x 2 box of zero logits: 1/4 and 1
    for rows, expected in (((small, large), 0.5 - 1), ((large, small), 0.5 - 0.25)):
        raw = torch.zeros(1, 1, 2, 2, 7, requires_grad=True)
        one_level()([raw], target(*rows))[0].backward()
        assert raw.grad is not None
        assert raw.grad[0, 0, 0, 0, 4].item() == pytest.approx(expected)


def test_one_class_has_no_class_loss():
    raw = torch.zeros(1, 1, 2, 2, 6)
    _, items = one_level(num_classes=1)([raw], target((0, 0, 0.25, 0.25, 0.5, 0.5)))
    assert items[2] == 0


def test_label_smoothing_moves_class_targets_by_half_its_value():
    raw = torch.zeros(1, 1, 2, 2, 7, requires_grad=True)
    one_level(label_smoothing=0.2)([raw], target((0, 1, 0.25, 0.25, 0.5, 0.5)))[0].backward()
    assert raw.grad is not None
    # mean over 1 assignment x 2 classes: (sigmoid(0) - target) / 2, targets 0.1 and 0.9
    assert raw.grad[0, 0, 0, 0, 5:].tolist() == pytest.approx([0.2, -0.2])


def test_focal_loss_weighs_easy_cells_down():
    raw = torch.zeros(1, 1, 2, 2, 6)
    _, items = one_level(num_classes=1, fl_gamma=2.0)([raw], target())
    assert items[1].item() == pytest.approx(4 * LN2 * 0.75 * 0.5**2)


def test_a_positive_weight_multiplies_the_positive_part():
    raw = torch.zeros(1, 1, 2, 2, 7)
    _, items = one_level(cls_pw=3.0)([raw], target((0, 1, 0.25, 0.25, 0.5, 0.5)))
    assert items[2].item() == pytest.approx((3 * LN2 + LN2) / 2)


def test_giou_is_used_when_asked_for():
    raw = torch.zeros(1, 1, 4, 4, 7)
    rows = target((0, 1, 0.5 / 4, 0.5 / 4, 1 / 4, 3 / 4))
    _, giou = one_level(iou="giou")([raw], rows)
    box, truth = torch.tensor([[0.5, 0.5, 2.0, 2.0]]), torch.tensor([[0.5, 0.5, 1.0, 3.0]])
    assert giou[0].item() == pytest.approx(1 - paired_iou(box, truth, "giou").item())
    assert giou[0] != one_level()([raw], rows)[1][0]


def test_half_precision_outputs_give_the_loss_of_the_same_numbers_in_float():
    raw = torch.randn(1, 1, 4, 4, 7, generator=torch.Generator().manual_seed(0)).half()
    rows = target((0, 1, 0.3, 0.4, 0.5, 0.5))
    assert torch.equal(one_level()([raw], rows)[1], one_level()([raw.float()], rows)[1])


def three_levels(**changes: Any) -> DetectionLoss:
    anchors = torch.ones(3, 1, 2)
    return DetectionLoss(anchors, torch.tensor([8.0, 16.0, 32.0]), 2, replace(PLAIN, **changes))


def raw_levels(value: float = 0.0) -> list[Tensor]:
    return [torch.full((1, 1, n, n, 7), value) for n in (8, 4, 2)]


def test_autobalance_moves_towards_equal_levels_and_keeps_the_middle_at_one():
    loss = three_levels(autobalance=True)
    loss(raw_levels(), target())
    moved = [b * 0.9999 + 0.0001 / LN2 for b in (4.0, 1.0, 0.4)]
    assert loss.balance == pytest.approx([b / moved[1] for b in moved])


def test_without_autobalance_the_balance_stays():
    loss = three_levels()
    loss(raw_levels(), target())
    assert loss.balance == [4.0, 1.0, 0.4]


def test_a_fixed_loss_is_the_same_and_moves_no_balance():
    loss = three_levels(autobalance=True)
    loss(raw_levels(), target())
    before = list(loss.balance)
    fixed = loss.fixed()
    _, items = fixed(raw_levels(-1.0), target())
    assert loss.balance == fixed.balance == before
    assert torch.equal(items, loss(raw_levels(-1.0), target())[1])
    assert loss.balance != before


def test_four_levels_have_their_own_balance():
    loss = DetectionLoss(torch.ones(4, 1, 2), torch.tensor([8.0, 16, 32, 64]), 2, PLAIN)
    assert loss.balance == [4.0, 1.0, 0.25, 0.06]


def test_boxes_in_a_cell_are_decoded_as_the_head_does():
    decoded = decode_in_cell(torch.zeros(1, 7), torch.tensor([[3.0, 4.0]]))
    assert decoded.tolist() == [[0.5, 0.5, 3, 4]]


inside = st.floats(0.0625, 0.9375, width=32)


@given(x=inside, y=inside, w=st.floats(0.1, 0.8), h=st.floats(0.1, 0.8))
def test_a_perfect_prediction_has_hardly_any_box_loss(x: float, y: float, w: float, h: float):
    rows = target((0, 1, x, y, w, h))
    anchors = torch.tensor([[[2.0, 2.0]]])
    found = assign(anchors, [(8, 8)], rows, 4.0)[0]
    raw = torch.zeros(1, 1, 8, 8, 7)
    p = torch.cat(((found.box[:, :2] + 0.5) / 2, (found.box[:, 2:] / 2.0).sqrt() / 2), 1)
    raw[found.image, found.anchor, found.row, found.column, :4] = torch.logit(p)
    _, items = one_level()([raw], rows)
    assert 0 <= items[0].item() + 1e-5 < 1e-3


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 1), *[st.floats(0, 1, width=32)] * 4),
        max_size=6,
    ),
    seed=st.integers(0, 1000),
)
def test_any_targets_give_a_finite_loss_and_gradient(rows: list[tuple[float, ...]], seed: int):
    raw = torch.randn(2, 1, 4, 4, 7, generator=torch.Generator().manual_seed(seed))
    raw.requires_grad_()
    total, items = one_level()([raw], target(*rows))
    total.backward()
    assert torch.isfinite(items).all()
    assert raw.grad is not None
    assert torch.isfinite(raw.grad).all()
    assert (items >= 0).all()


@given(seed=st.integers(0, 1000))
def test_objectness_equals_a_loop_over_the_assignments(seed: int):
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(2, 1, 4, 4, 7, generator=generator)
    rows = torch.rand(8, 6, generator=generator)
    rows[:, 0], rows[:, 1] = torch.arange(8) % 2, 1
    loss = one_level()
    found = assign(loss.anchors, [(4, 4)], rows, 4.0)[0]
    wanted = torch.zeros(2, 1, 4, 4)
    for k in range(len(found.image)):  # later assignments overwrite earlier ones
        place = (found.image[k], found.anchor[k], found.row[k], found.column[k])
        box = decode_in_cell(raw[place][None], found.anchor_size[k : k + 1])
        wanted[place] = paired_iou(box, found.box[k : k + 1], "ciou").clamp(min=0)
    slow = 4.0 * F.binary_cross_entropy_with_logits(raw[..., 4], wanted)
    torch.testing.assert_close(loss([raw], rows)[1][1], slow)


def test_assignments_arrive_on_the_device_as_they_were_sent():
    anchors = torch.tensor([[[2.0, 2.0], [1.0, 3.0]], [[1.0, 1.0], [3.0, 2.0]]])
    rows = target((0, 1, 0.3, 0.4, 0.3, 0.3), (1, 0, 0.6, 0.6, 0.2, 0.4))
    found = assign(anchors, [(8, 8), (4, 4)], rows, 4.0)
    assert all(len(level.image) for level in found)
    for before, after in zip(found, sent(found, torch.device("cpu")), strict=True):
        for name in Assignment.__slots__:
            assert torch.equal(getattr(before, name), getattr(after, name))
            assert getattr(before, name).dtype == getattr(after, name).dtype


def test_nothing_of_a_forward_and_backward_pass_waits_for_the_device():
    """A tensor on "meta" has no values: asking for one, as a wait would, is an error."""
    model = Detector(tiny_description()).to("meta")
    anchors, strides = torch.ones(3, 3, 2), torch.tensor([8.0, 16.0, 32.0])
    loss = DetectionLoss(anchors, strides, 3, replace(PLAIN, label_smoothing=0.1, cls_pw=2.0))
    targets = target((0, 1, 0.3, 0.4, 0.1, 0.1), (1, 0, 0.6, 0.6, 0.02, 0.04))
    raw = [torch.empty(2, 3, n, n, 8, device="meta", requires_grad=True) for n in (8, 4, 2)]
    total, items = loss(raw, targets)
    total.backward()
    assert (total.device.type, items.shape) == ("meta", (3,))
    assert all(level.grad is not None for level in raw)
    assert len(model(torch.empty(2, 3, 64, 64, device="meta"))) == 3
