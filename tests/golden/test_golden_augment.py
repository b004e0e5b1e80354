"""Augmentation with fixed draws against the pixels and boxes of the public program."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.golden_data import golden_files
from yolov5_core.augment import hsv_lut, letterbox, mixup, resize_longest, to_rgb
from yolov5_core.boxes import denormalise, normalise, rectangular_batches
from yolov5_core.dataset import NO_SEGMENT
from yolov5_core.mosaic import (
    Tile,
    Window,
    copy_paste,
    corners4,
    new_canvas,
    paint,
    place_labels,
)
from yolov5_core.perspective import (
    PerspectiveDraw,
    box_candidates,
    perspective_matrix,
    random_perspective,
)

_FILES = golden_files("augment*.npz")
_DRAW_NAMES = {
    "persp_x": "perspective_x",
    "persp_y": "perspective_y",
    "angle_deg": "angle",
    "scale": "scale",
    "shear_x_deg": "shear_x",
    "shear_y_deg": "shear_y",
    "translate_x": "translate_x",
    "translate_y": "translate_y",
}


def _load(path: Path) -> tuple[Any, dict[str, Any]]:
    data = np.load(path)
    return data, json.loads(str(data["meta"]))


def _runs(belongs: Callable[[str, dict[str, Any]], bool]) -> list[Any]:
    return [
        pytest.param(path, name, id=f"{path.stem}-{name}")
        for path in _FILES
        for meta in [_load(path)[1]]
        for name in meta
        if isinstance(meta[name], dict) and belongs(name, meta[name])
    ]


def _pixels_agree(actual: np.ndarray, expected: np.ndarray) -> None:
    """Within 2 grey levels on 99 %: interpolation differs between OpenCV versions."""
    assert actual.shape == expected.shape
    difference = np.abs(actual.astype(int) - expected.astype(int))
    assert (difference <= 2).mean() >= 0.99


@pytest.mark.parametrize("with_polygons", [False, True])
@pytest.mark.parametrize(("path", "name"), _runs(lambda _, run: "draw_order" in run))
def test_random_perspective_equals_golden(path: Path, name: str, with_polygons: bool) -> None:
    data, meta = _load(path)
    draws = zip(meta[name]["draw_order"], meta[name]["draw"], strict=True)
    draw = PerspectiveDraw(**{_DRAW_NAMES[key]: value for key, value in draws})
    border_hw = tuple(meta[name]["border_hw"])
    targets = data["targets"]
    prefix = f"{name}_seg" if with_polygons else name
    segments = list(data["segments"]) if with_polygons else [np.zeros((0, 2))] * len(targets)

    image, labels, kept = random_perspective(data["image"], targets, segments, draw, border_hw)

    matrix = perspective_matrix(draw, data["image"].shape[:2], border_hw)
    np.testing.assert_allclose(matrix, data[f"{prefix}_matrix"], rtol=1e-12, atol=1e-12)
    _pixels_agree(image, data[f"{prefix}_image"])
    np.testing.assert_allclose(labels, data[f"{prefix}_targets"], rtol=0, atol=1e-6)
    assert len(kept) == len(labels)
    keep = box_candidates(
        targets[:, 1:] * draw.scale,
        data[f"{prefix}_boxes_before_filter"],
        area_threshold=0.01 if with_polygons else 0.1,
    )
    np.testing.assert_array_equal(keep, data[f"{prefix}_keep"])


@pytest.mark.parametrize("path", _FILES, ids=lambda p: p.stem)
@pytest.mark.parametrize(
    ("name", "thresholds"),
    [
        ("cand_default", {}),
        ("cand_seg", {"area_threshold": 0.01}),
        ("cand_v3", {"aspect_threshold": 20, "area_threshold": 0.2}),
    ],
)
def test_candidate_filter_equals_golden(
    path: Path, name: str, thresholds: dict[str, float]
) -> None:
    data, _ = _load(path)
    keep = box_candidates(data["cand_before"], data["cand_after"], **thresholds)
    np.testing.assert_array_equal(keep, data[name])


@pytest.mark.parametrize(("path", "name"), _runs(lambda _, run: "gains_h_s_v" in run))
def test_colour_change_equals_golden(path: Path, name: str) -> None:
    data, meta = _load(path)
    gains = 1 + np.array(meta[name]["draws"]) * np.array(meta[name]["gains_h_s_v"])
    np.testing.assert_array_equal(hsv_lut(gains), data[f"{name}_lut"])
    changed = to_rgb(data["image"], gains)[..., ::-1]
    np.testing.assert_array_equal(changed, data[f"{name}_image"])


@pytest.mark.parametrize(("path", "name"), _runs(lambda name, _: name == "mixup"))
def test_mixup_equals_golden(path: Path, name: str) -> None:
    data, meta = _load(path)
    # as `image2` and `targets` of the meta data say
    first, last = map(
        int, re.findall(r"rows (\d+)-\d+ then rows \d+-(\d+)", meta[name]["targets"])[0]
    )
    middle = int(re.findall(r"then rows (\d+)-", meta[name]["targets"])[0])
    image, targets = data["image"], data["targets"]
    mixed, labels = mixup(
        image,
        targets[first:middle],
        image[::-1, ::-1],
        targets[middle : last + 1],
        meta[name]["r"],
    )
    np.testing.assert_array_equal(mixed, data[f"{name}_image"])
    np.testing.assert_array_equal(labels, data[f"{name}_targets"])


@pytest.mark.parametrize(("path", "name"), _runs(lambda name, _: name == "copypaste"))
def test_copy_paste_equals_golden(path: Path, name: str) -> None:
    data, meta = _load(path)
    count = round(meta[name]["p"] * len(data["targets"]))
    image, labels, segments = copy_paste(
        data["image"], data["targets"], list(data["segments"]), range(count)
    )
    np.testing.assert_array_equal(image, data[f"{name}_image"])
    np.testing.assert_allclose(labels, data[f"{name}_targets"], rtol=0, atol=1e-6)
    assert len(segments) == data[f"{name}_n_segments"]


def _mosaics() -> list[Any]:
    return [
        pytest.param(path, i, id=f"{path.stem}-{i}")
        for path in _FILES
        for i in range(len(_load(path)[1].get("mosaic", {}).get("cases", [])))
    ]


@pytest.mark.parametrize(("path", "index"), _mosaics())
def test_mosaic_canvas_equals_golden(path: Path, index: int) -> None:
    data, meta = _load(path)
    size = meta["mosaic"]["img_size"]
    case = meta["mosaic"]["cases"][index]
    side = 2 * size
    order = case["order_tl_tr_bl_br"]
    images = [resize_longest(data[f"ds_image{i}"], size, augment=True) for i in order]
    tiles = [
        Tile(image.shape[:2], data[f"ds_label{i}"], [NO_SEGMENT] * len(data[f"ds_label{i}"]))
        for i, image in zip(order, images, strict=True)
    ]
    corners = corners4([tile.size_hw for tile in tiles], (case["xc"], case["yc"]))
    whole = Window(0, 0, side, side)
    canvas = new_canvas(side, whole)
    for image, corner in zip(images, corners, strict=True):
        paint(canvas, image, corner, whole)
    labels, segments = place_labels(tiles, corners, side)
    _pixels_agree(canvas[..., :3], data[f"mosaic{index}_canvas"])
    np.testing.assert_allclose(labels, data[f"mosaic{index}_labels"], rtol=0, atol=1e-6)
    assert len(segments) == len(labels)


def _validation_items() -> list[Any]:
    return [
        pytest.param(path, kind, place, id=f"{path.stem}-{kind}-{place}")
        for path in _FILES
        for data in [_load(path)[0]]
        for kind in ("val_square", "val_rect")
        if f"{kind}_order" in data
        for place in range(len(data[f"{kind}_order"]))
    ]


@pytest.mark.parametrize(("path", "kind", "place"), _validation_items())
def test_validation_items_equal_golden(path: Path, kind: str, place: int) -> None:
    data, meta = _load(path)
    settings = meta["val_items"]
    size = settings["img_size"]
    order = data[f"{kind}_order"]
    canvas_hw = (size, size)
    if kind == "val_rect":
        shapes_wh = np.array([data[f"ds_image{i}"].shape[1::-1] for i in range(len(order))])
        batches = rectangular_batches(
            shapes_wh, settings["batch_size"], size, settings["stride"], 0.5
        )
        np.testing.assert_array_equal(batches.order, order)
        canvas_hw = tuple(batches.shapes_hw[batches.batch_of_image[place]].tolist())
    native = data[f"ds_image{order[place]}"]
    resized = resize_longest(native, size, augment=False)
    height, width = resized.shape[:2]

    image, geometry = letterbox(resized, canvas_hw, scaleup=False)
    labels = data[f"ds_label{order[place]}"].copy()
    ratio_x, ratio_y = geometry.ratio
    boxes = denormalise(labels[:, 1:], ratio_x * width, ratio_y * height, *geometry.pad)
    labels[:, 1:] = normalise(boxes, canvas_hw[1], canvas_hw[0], clip_margin=1e-3)

    _pixels_agree(image[:, :, ::-1].transpose(2, 0, 1), data[f"{kind}_{place}_image"])
    np.testing.assert_allclose(labels, data[f"{kind}_{place}_labels"][:, 1:], rtol=0, atol=1e-6)
    shapes = (*native.shape[:2], height / native.shape[0], width / native.shape[1], *geometry.pad)
    np.testing.assert_array_equal(shapes, data[f"{kind}_{place}_shapes"])
