import pytest
import torch
from torch import Tensor, nn

from yolov5_core.layers import (
    C3,
    SPP,
    SPPF,
    Bottleneck,
    BottleneckCSP,
    Concat,
    Conv,
    DWConv,
    Focus,
    same_padding,
)


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def with_random_statistics(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return module.eval()


@pytest.mark.parametrize(
    ("kernel", "dilation", "padding"), [(1, 1, 0), (3, 1, 1), (6, 1, 3), (3, 2, 2), (5, 1, 2)]
)
def test_same_padding_is_half_the_effective_kernel(kernel: int, dilation: int, padding: int):
    assert same_padding(kernel, dilation) == padding


def test_a_conv_is_convolution_batch_norm_activation():
    conv = with_random_statistics(Conv(3, 4, 3, 2, activation=nn.SiLU()))
    x = images(2, 3, 8, 8)
    assert conv(x).shape == (2, 4, 4, 4)
    assert torch.equal(conv(x), nn.functional.silu(conv.bn(conv.conv(x))))
    assert conv.conv.bias is None
    assert (conv.bn.eps, conv.bn.momentum) == (1e-3, 0.03)


def test_fusing_a_conv_keeps_its_output_and_drops_its_batch_norm():
    conv = with_random_statistics(Conv(3, 4, 3, activation=nn.SiLU()))
    x = images(2, 3, 8, 8)
    before = conv(x)
    conv.fuse()
    torch.testing.assert_close(conv(x), before)
    assert list(conv.state_dict()) == ["conv.weight", "conv.bias"]


def test_fusing_twice_is_fusing_once():
    conv = with_random_statistics(Conv(3, 4, activation=nn.SiLU()))
    conv.fuse()
    once = {key: value.clone() for key, value in conv.state_dict().items()}
    conv.fuse()
    assert all(torch.equal(once[key], value) for key, value in conv.state_dict().items())


@pytest.mark.parametrize(("c_in", "c_out", "groups"), [(8, 8, 8), (8, 12, 4), (3, 8, 1)])
def test_a_depth_wise_conv_has_as_many_groups_as_both_sides_allow(
    c_in: int, c_out: int, groups: int
):
    assert DWConv(c_in, c_out, 3, activation=nn.SiLU()).conv.groups == groups


def test_a_bottleneck_adds_its_input_only_if_asked_and_of_equal_width():
    x = images(1, 8, 4, 4)
    adding = with_random_statistics(Bottleneck(8, 8, activation=nn.SiLU()))
    assert torch.equal(adding(x), x + adding.cv2(adding.cv1(x)))
    asked_not_to = with_random_statistics(Bottleneck(8, 8, False, activation=nn.SiLU()))
    assert torch.equal(asked_not_to(x), asked_not_to.cv2(asked_not_to.cv1(x)))
    assert not Bottleneck(8, 4, activation=nn.SiLU()).adds_input


def test_a_c3_joins_its_bottleneck_branch_first():
    block = with_random_statistics(C3(8, 6, 2, activation=nn.SiLU()))
    x = images(1, 8, 4, 4)
    joined = torch.cat((block.m(block.cv1(x)), block.cv2(x)), 1)
    assert torch.equal(block(x), block.cv3(joined))
    assert len(block.m) == 2
    assert block(x).shape == (1, 6, 4, 4)


def test_a_bottleneck_csp_normalises_both_branches_together():
    block = with_random_statistics(BottleneckCSP(8, 6, 1, activation=nn.LeakyReLU(0.1)))
    x = images(1, 8, 4, 4)
    joined = torch.cat((block.cv3(block.m(block.cv1(x))), block.cv2(x)), 1)
    assert torch.equal(block(x), block.cv4(nn.functional.leaky_relu(block.bn(joined), 0.1)))


def test_pooling_in_a_row_equals_pooling_side_by_side():
    row = with_random_statistics(SPPF(8, 6, activation=nn.SiLU()))
    side = SPP(8, 6, activation=nn.SiLU()).eval()
    side.load_state_dict(row.state_dict())
    x = images(1, 8, 16, 12)
    assert torch.equal(row(x), side(x))


def test_focus_stacks_the_four_pixel_parities():
    focus = Focus(1, 4, activation=nn.Identity())
    focus.conv.conv.weight.data = torch.eye(4).view(4, 4, 1, 1)
    focus.conv.bn = nn.Identity()
    x = torch.arange(16.0).view(1, 1, 4, 4)
    stacked = focus(x)[0]
    # (row even, column even), (odd, even), (even, odd), (odd, odd)
    assert [plane[0, 0].item() for plane in stacked] == [0, 4, 1, 5]
    assert stacked[0].tolist() == [[0, 2], [8, 10]]


def test_concat_joins_channels_in_the_listed_order():
    a, b = torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2, 2)
    assert Concat()([a, b])[0, :, 0, 0].tolist() == [0, 1, 1]
