import json
from typing import Any

import pytest
import torch
from torch import nn

from tests.golden_data import golden_files
from yolov5_core.architecture import VARIANTS, ModelDescription, describe, from_mapping
from yolov5_core.model import Detector, fuse

CASES = [
    pytest.param(name, entry, id=f"{path.stem}-{name}")
    for path in golden_files("arch*.json")
    for name, entry in json.loads(path.read_text()).items()
]
each_variant = pytest.mark.parametrize(("name", "entry"), CASES)


def description_of(name: str, entry: dict[str, Any]) -> ModelDescription:
    """The variant by its name, or for another name the standard tables at the entry's scale."""
    if name in VARIANTS:
        return describe(name, entry["nc"])
    base = describe("s6" if len(entry["strides"]) == 4 else "s", entry["nc"]).to_mapping()
    scale = {key: entry[key] for key in ("depth_multiple", "width_multiple")}
    return from_mapping({**base, **scale}, name)


def shapes_only(description: ModelDescription) -> Detector:
    """The whole network without its memory: x6 would need half a gigabyte."""
    with torch.device("meta"):
        return Detector(description)


def keys_and_shapes(model: nn.Module) -> list[list[Any]]:
    return [[key, list(tensor.shape)] for key, tensor in model.state_dict().items()]


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@each_variant
def test_golden_state_dict_has_the_public_keys_and_shapes_in_order(
    name: str, entry: dict[str, Any]
) -> None:
    model = shapes_only(description_of(name, entry))

    assert keys_and_shapes(model) == entry["state_dict"]
    assert count(model) == entry["parameters"]
    if "parameter_order" in entry:
        assert [key for key, _ in model.named_parameters()] == entry["parameter_order"]


@each_variant
def test_golden_scale_strides_kept_layers_and_module_count_agree(
    name: str, entry: dict[str, Any]
) -> None:
    description = description_of(name, entry)
    model = shapes_only(description)

    assert description.depth_multiple == entry["depth_multiple"]
    assert description.width_multiple == entry["width_multiple"]
    assert model.stride.tolist() == entry["strides"]
    assert model.save == entry["save"]
    assert sum(1 for _ in model.modules()) == entry["modules"]


@each_variant
def test_golden_anchors_are_in_units_of_their_stride(name: str, entry: dict[str, Any]) -> None:
    # a real but thin copy: anchors do not depend on the width, and meta tensors hold no values
    thin = {**description_of(name, entry).to_mapping(), "width_multiple": 0.0625}

    anchors = Detector(from_mapping(thin, name)).detect.anchors

    assert anchors.tolist() == entry["anchors_grid_units"]


@each_variant
def test_golden_fused_model_has_the_public_parameters(name: str, entry: dict[str, Any]) -> None:
    fused = fuse(shapes_only(description_of(name, entry)))

    assert count(fused) == entry["parameters_fused"]
    first = entry["state_dict_fused_first"]
    assert keys_and_shapes(fused)[: len(first)] == first


@each_variant
def test_golden_convolutions_multiply_as_often_as_the_public_ones(
    name: str, entry: dict[str, Any]
) -> None:
    model = shapes_only(description_of(name, entry)).train()
    macs = 0

    def count_macs(conv: nn.Conv2d, _: Any, output: torch.Tensor) -> None:
        nonlocal macs
        macs += output.numel() * conv.weight[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count_macs)
    with torch.no_grad():
        model(torch.zeros(1, 3, 640, 640, device="meta"))

    assert 2 * macs / 1e9 == pytest.approx(entry["conv_gflops_640"], abs=0.5001e-4)  # 4 decimals
