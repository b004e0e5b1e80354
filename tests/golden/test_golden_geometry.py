"""Boxes, letterbox and rectangular batches against the numbers of the public program."""

import json
import re
from typing import Any

import numpy as np
import pytest

from tests.golden_data import golden_files
from yolov5_core.boxes import (
    cxcywh_to_xyxy,
    denormalise,
    letterbox_geometry,
    normalise,
    rectangular_batches,
    resized_hw,
    round_up_image_size,
    segments_to_boxes,
    unletterbox,
    xyxy_to_cxcywh,
)


def _cases(kind: str) -> list[Any]:
    """Every case of a kind, of every geometry file there is."""
    return [
        pytest.param(case, id=f"{path.stem}-{i}")
        for path in golden_files("geometry*.json")
        for i, case in enumerate(json.loads(path.read_text())[kind])
    ]


def _conversions() -> list[Any]:
    """(numbers of one file, name of a converted table); inputs have no `to` in their name."""
    return [
        pytest.param(tables, name, id=f"{path.stem}-{name}")
        for path in golden_files("geometry*.json")
        for tables in [json.loads(path.read_text())["conversions"]]
        for name in tables
        if "_to_" in name
    ]


def _exact_to_float32(actual: Any, expected: Any) -> None:
    np.testing.assert_array_equal(np.float32(actual), np.float32(expected))


@pytest.mark.parametrize("case", _cases("letterbox"))
def test_letterbox_geometry_equals_golden(case: dict[str, Any]) -> None:
    new = case["new_shape"]
    geometry = letterbox_geometry(
        tuple(case["shape"]),
        (new, new) if isinstance(new, int) else tuple(new),
        auto=case["auto"],
        scale_fill=case["scaleFill"],
        scaleup=case["scaleup"],
        stride=case["stride"],
    )
    assert geometry.ratio == tuple(case["ratio"])
    assert geometry.pad == tuple(case["pad"])
    assert geometry.canvas_hw == tuple(case["out_shape"])
    border = [geometry.top, geometry.bottom, geometry.left, geometry.right]
    assert border == case["top_bottom_left_right"]


@pytest.mark.parametrize(("tables", "name"), _conversions())
def test_box_conversions_equal_golden(tables: dict[str, Any], name: str) -> None:
    source, rest = name.split("_to_")
    numbers = {key: float(v) for key, v in re.findall(r"_(w|h)(\d+)", rest)}
    if name == "xyxy_to_xywh":
        actual = xyxy_to_cxcywh(np.array(tables["xyxy"]))
    elif name == "xywh_to_xyxy":  # the way back of the table before
        actual = cxcywh_to_xyxy(np.array(tables["xyxy_to_xywh"]))
    elif source == "xywhn":
        pad = re.search(r"_pad_([\d.]+)_([\d.]+)", rest)
        pad_x, pad_y = map(float, pad.groups()) if pad else (0.0, 0.0)
        actual = denormalise(np.array(tables[source]), numbers["w"], numbers["h"], pad_x, pad_y)
    else:
        margin = re.search(r"_eps(.+)$", rest)
        clip_margin = float(margin[1]) if margin else None
        actual = normalise(np.array(tables[source]), numbers["w"], numbers["h"], clip_margin)
    _exact_to_float32(actual, tables[name])


@pytest.mark.parametrize("case", _cases("scale_boxes"))
def test_boxes_mapped_back_equal_golden(case: dict[str, Any]) -> None:
    actual = unletterbox(
        np.array(case["boxes"], np.float32),
        tuple(case["img1_shape"]),
        tuple(case["img0_shape"]),
        case["ratio_pad"],
    )
    _exact_to_float32(actual, case["out"])


@pytest.mark.parametrize("path", golden_files("geometry*.json"), ids=lambda p: p.stem)
def test_boxes_around_polygons_equal_golden(path: Any) -> None:
    case = json.loads(path.read_text())["segments"]
    actual = segments_to_boxes([np.array(segment) for segment in case["segments"]])
    _exact_to_float32(actual, case["to_boxes_xywh"])


@pytest.mark.parametrize("case", _cases("rect"))
def test_rectangular_batches_equal_golden(case: dict[str, Any]) -> None:
    shapes_wh = np.array(case["image_wh"])
    batches = rectangular_batches(
        shapes_wh, case["batch_size"], case["img_size"], case["stride"], case["pad"]
    )
    assert batches.order.tolist() == case["order"]
    assert batches.batch_of_image.tolist() == case["batch_of_image"]
    assert batches.shapes_hw.tolist() == case["batch_shapes_hw"]
    for place, pad in enumerate(case["first_items_pad_xy"]):
        width, height = shapes_wh[batches.order[place]].tolist()
        resized = resized_hw((height, width), case["img_size"])
        canvas_hw = batches.shapes_hw[batches.batch_of_image[place]].tolist()
        assert letterbox_geometry(resized, canvas_hw, scaleup=False).pad == tuple(pad)


@pytest.mark.parametrize("case", _cases("check_img_size"))
def test_image_size_rounding_equals_golden(case: dict[str, Any]) -> None:
    assert round_up_image_size(case["imgsz"], case["stride"], case["floor"]) == case["out"]
