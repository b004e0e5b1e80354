from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from tests.golden_data import fill
from tests.tiny import tiny_description
from tests.yolov5_core.test_architecture import tiny_mapping
from yolov5_core.architecture import describe, from_mapping
from yolov5_core.config import ConfigError
from yolov5_core.model import (
    Detector,
    forward_augmented,
    fuse,
    in_stride_order,
    parse_activation,
    transfer,
)


def build(**changes: Any) -> Detector:
    return Detector(from_mapping(tiny_mapping(**changes), "mine.yaml"))


def tiny(num_classes: int = 4) -> Detector:
    model = Detector(tiny_description(num_classes))
    fill(model)
    return model.eval()


def images(height: int = 64, width: int = 96) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_raw_outputs_have_the_grids_of_the_strides():
    raw = tiny().train()(images())
    assert [tuple(level.shape) for level in raw] == [
        (2, 3, 8, 12, 9),
        (2, 3, 4, 6, 9),
        (2, 3, 2, 3, 9),
    ]


def test_strides_are_those_of_the_layer_table():
    assert tiny().stride.tolist() == [8, 16, 32]
    assert Detector(replace(describe("n6"), width_multiple=0.0625)).max_stride == 64
    assert build().stride.tolist() == [4]


def test_a_fresh_model_has_untouched_batch_norm_statistics():
    norms = [m for m in Detector(tiny_description()).modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(norm.num_batches_tracked == 0 for norm in norms)
    assert all(torch.all(norm.running_var == 1) for norm in norms)


def test_a_custom_description_is_built_as_written(tmp_path: Path):
    mapping = tiny_mapping(
        depth_multiple=0.5,
        width_multiple=0.5,
        activation="nn.LeakyReLU(0.1)",
        anchors=[[10, 13, 16, 30], [30, 61, 62, 45]],
        backbone=[
            [-1, 1, "Focus", [32, 3]],  # 0: 16 channels at stride 2
            [-1, 1, "Conv", [64, 3, 2]],  # 1: 32 at 4
            [-1, 6, "BottleneckCSP", [64]],  # 2: three bottlenecks
            [-1, 1, "DWConv", [64, 3, 2]],  # 3: at 8
            [-1, 1, "SPP", [64, [5, 9, 13]]],  # 4
            [-1, 4, "Bottleneck", [64]],  # 5: a chain of two
        ],
        head=[
            [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],  # 6: at 4
            [[-1, 2], 1, "Concat", [1]],  # 7: 64 at 4
            [-1, 1, "C3", [64, False]],  # 8
            [[8, 5], 1, "Detect", ["nc", "anchors"]],
        ],
    )
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(mapping))
    model = Detector(describe(str(path), 3))
    assert model.stride.tolist() == [4, 8]
    assert model.save == [2, 5, 8]
    assert len(model.model[2].m) == 3
    assert len(model.model[5]) == 2
    assert model.model[8].cv1.conv.in_channels == 64
    assert isinstance(model.model[1].act, nn.LeakyReLU)
    assert [tuple(raw.shape) for raw in model.train()(images())] == [
        (2, 2, 16, 24, 8),
        (2, 2, 8, 12, 8),
    ]


def test_channels_are_rounded_up_to_the_channel_multiple():
    assert build(width_multiple=0.3).model[0].conv.out_channels == 8
    widths = build(width_multiple=0.3, channel_multiple=1).model[0].conv.out_channels
    assert widths == 3  # ceil(8 * 0.3)


def test_a_width_that_is_the_heads_own_is_left_alone():
    model = build(width_multiple=0.5, backbone=[[-1, 1, "Conv", [14, 3, 2]]])
    assert model.model[0].conv.out_channels == 14  # 2 anchors * (5 + 2 classes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"backbone": [[-1, 1, "Transformer", [8]]]},
            r"layer 0 \(Transformer\): unknown block; known: Conv, DWConv, .*Concat, Detect",
        ),
        ({"backbone": [[-1, 1, "__import__('os')", [8]]]}, "unknown block"),
        ({"backbone": [[3, 1, "Conv", [8]]]}, r"layer 0 \(Conv\): from=3 is not an earlier layer"),
        ({"backbone": [[-2, 1, "Conv", [8]]]}, "from=-2 is not an earlier layer"),
        ({"backbone": [[-1, 1, "Conv", []]]}, r"layer 0 \(Conv\): arguments \[\] do not fit"),
        ({"backbone": [[-1, 1, "Conv", ["wide"]]]}, "do not fit"),
        ({"backbone": [[-1, 1, "Conv", [8, 3, 2, 1, 1, 1, 9]]]}, "do not fit"),
        ({"backbone": [[-1, 1, "Conv", [float("inf")]]]}, "do not fit"),
        ({"backbone": [[-1, 1, "Conv", [-8]]]}, "do not fit"),
        ({"activation": "os.system('x')"}, "activation=.*known: SiLU, LeakyReLU"),
    ],
)
def test_a_layer_that_cannot_be_built_is_an_error_with_its_place(
    changes: dict[str, Any], message: str
):
    with pytest.raises(ConfigError, match=message):
        build(**changes)


def test_layers_of_different_strides_cannot_be_joined():
    with pytest.raises(ConfigError, match=r"layer 2 \(Concat\): its sources have different"):
        build(
            backbone=[
                [-1, 1, "Conv", [8, 3, 2]],
                [-1, 1, "Conv", [8, 3, 2]],
                [[-1, 0], 1, "Concat", []],
            ]
        )


@pytest.mark.parametrize(
    ("text", "kind", "slope"),
    [
        ("SiLU", nn.SiLU, None),
        ("nn.SiLU()", nn.SiLU, None),
        (" nn.Hardswish() ", nn.Hardswish, None),
        ("LeakyReLU", nn.LeakyReLU, 0.01),
        ("nn.LeakyReLU(0.1)", nn.LeakyReLU, 0.1),
        ("LeakyReLU( .2 )", nn.LeakyReLU, 0.2),
    ],
)
def test_an_activation_is_read_from_its_public_spelling(
    text: str, kind: type[nn.Module], slope: float | None
):
    activation = parse_activation(text)
    assert type(activation) is kind
    assert getattr(activation, "negative_slope", None) == slope


@pytest.mark.parametrize(
    "text", ["", "Swish", "nn.SiLU(1)", "nn.LeakyReLU(0.1.2)", "LeakyReLU(-1)", "torch.SiLU()"]
)
def test_another_activation_is_refused(text: str):
    with pytest.raises(ConfigError, match="activation="):
        parse_activation(text)


def test_the_activation_of_one_model_does_not_change_the_next():
    build(activation="ReLU")
    assert isinstance(build().model[0].act, nn.SiLU)


def test_fusing_keeps_the_outputs_and_the_model():
    model = tiny().double()
    keys = list(model.state_dict())
    fused = fuse(model)
    x = images().double()
    for ours, theirs in zip(fused(x)[1], model(x)[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    assert list(model.state_dict()) == keys
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())


def test_augmented_prediction_drops_the_weakest_level_of_the_first_and_last_pass():
    decoded = forward_augmented(tiny(), images(64, 64))
    full = 3 * (8**2 + 4**2 + 2**2)  # also the second pass: 53 pixels are padded to 64
    first = full - 3 * 2**2  # without its coarsest level
    last = full - 3 * 8**2  # 42 pixels are padded to 64; without its finest level
    assert decoded.shape == (2, first + full + last, 9)


def test_augmented_prediction_begins_with_the_plain_one():
    model, x = tiny(), images(64, 64)
    plain = model(x)[0]
    augmented = forward_augmented(model, x)
    assert torch.equal(augmented[:, :240], plain[:, :240])


def test_the_flipped_pass_is_mapped_back_to_the_image():
    model = tiny()
    for conv in model.detect.m:  # type: ignore[union-attr]
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    flipped = forward_augmented(model, images(64, 64))[0, 240 : 240 + 252]
    # zero logits: boxes at the cell centres of a 64 pixel canvas at scale 0.83, from the right
    assert flipped[0, :2].tolist() == pytest.approx([64 - 4 / 0.83, 4 / 0.83])
    assert flipped[0, 2:4].tolist() == pytest.approx([10 / 0.83, 13 / 0.83])


def test_anchors_in_falling_order_are_reversed():
    rising = [(10.0, 10.0), (20.0, 20.0)]
    assert in_stride_order(rising[::-1], [8, 16]) == rising
    assert in_stride_order(rising, [8, 16]) == rising
    assert in_stride_order(rising, [16, 8]) == rising[::-1]
    assert in_stride_order([(2.0, 2.0)] * 2, [8, 16]) == [(2.0, 2.0)] * 2


def test_transfer_takes_what_fits_and_counts_it():
    source, target = tiny(num_classes=4), Detector(tiny_description(num_classes=7))
    fresh = {key: value.clone() for key, value in target.state_dict().items()}
    done, total = transfer(target, source.state_dict())
    assert total - done == 6  # weight and bias of three levels know the number of classes
    for key, value in target.state_dict().items():
        expected = fresh[key] if "model.24.m." in key else source.state_dict()[key]
        assert torch.equal(value, expected)


def test_transfer_leaves_the_anchors_when_told():
    source, target = tiny(), Detector(tiny_description())
    source.detect.anchors *= 2
    transfer(target, source.state_dict(), skip_anchors=True)
    assert torch.equal(target.detect.anchors * 2, source.detect.anchors)
    transfer(target, source.state_dict())
    assert torch.equal(target.detect.anchors, source.detect.anchors)


def test_transfer_of_unknown_keys_and_half_precision_is_harmless():
    source, target = tiny(), Detector(tiny_description())
    state = {k: v.half() if v.is_floating_point() else v for k, v in source.state_dict().items()}
    done, total = transfer(target, {**state, "model.24.anchor_grid": torch.zeros(1)})
    assert done == total
    assert all(v.dtype == torch.float32 for v in target.parameters())
