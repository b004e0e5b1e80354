import math

import pytest
import torch

from yolov5_core.detect import Detect


def head(num_classes: int = 2) -> Detect:
    """Two levels of strides 8 and 16 over 4 channels; all weights zero."""
    anchors = [(8.0, 16.0, 24.0, 32.0), (64.0, 32.0, 16.0, 16.0)]
    detect = Detect(num_classes, anchors, [8.0, 16.0], [4, 4])
    for parameter in detect.parameters():
        torch.nn.init.zeros_(parameter)
    return detect


def features() -> list[torch.Tensor]:
    return [torch.zeros(3, 4, 4, 6), torch.zeros(3, 4, 2, 3)]


def test_anchors_are_kept_in_units_of_their_stride():
    assert head().anchors.tolist() == [[[1, 2], [3, 4]], [[4, 2], [1, 1]]]
    assert next(iter(head().state_dict())) == "anchors"


def test_while_training_the_output_is_raw():
    raw = head().train()(features())
    assert [tuple(level.shape) for level in raw] == [(3, 2, 4, 6, 7), (3, 2, 2, 3, 7)]


def test_while_evaluating_the_output_is_decoded_too():
    decoded, raw = head().eval()(features())
    assert decoded.shape == (3, 2 * 4 * 6 + 2 * 2 * 3, 7)
    assert len(raw) == 2


def test_zero_logits_are_boxes_of_anchor_size_at_the_cell_centres():
    decoded = head().eval()(features())[0][0]
    # sigmoid(0) = 0.5: x = (2 * 0.5 - 0.5 + column) * stride, w = (2 * 0.5)^2 * anchor
    assert decoded[0].tolist() == [4, 4, 8, 16, 0.5, 0.5, 0.5]
    assert decoded[1].tolist()[:4] == [12, 4, 8, 16]  # next column
    assert decoded[6].tolist()[:4] == [4, 12, 8, 16]  # next row
    assert decoded[24].tolist()[:4] == [4, 4, 24, 32]  # next anchor
    assert decoded[48].tolist()[:4] == [8, 8, 64, 32]  # next level


def test_a_box_reaches_half_a_cell_beyond_its_own_and_four_times_its_anchor():
    detect = head().eval()
    detect.m[0].bias.data.view(2, 7)[0, :4] = torch.tensor([100.0, -100.0, 100.0, -100.0])
    first = detect(features())[0][0, 0].tolist()
    assert first[:4] == [12, -4, 32, 0]


def test_fresh_biases_expect_eight_objects_in_an_image_and_even_classes():
    torch.manual_seed(0)
    detect = Detect(4, [(10.0, 10.0)], [8.0], [16])
    default = 1 / math.sqrt(16)  # bound of PyTorch's own initial bias
    bias = detect.m[0].bias
    assert bias[4].item() == pytest.approx(math.log(8 / 80**2), abs=default)
    assert bias[5:].tolist() == pytest.approx([math.log(0.6 / 3.00001)] * 4, abs=default)
    assert bias[:4].abs().max() <= default


def test_one_class_has_a_finite_bias():
    assert torch.isfinite(Detect(1, [(10.0, 10.0)], [8.0], [16]).m[0].bias).all()
