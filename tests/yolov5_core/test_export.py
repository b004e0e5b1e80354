import hashlib
import json
import sys

import numpy as np
import onnx
import pytest
import torch

from tests.exported import NAMES, lively_checkpoint, load_torchscript, noise
from tests.tiny import tiny_description
from yolov5_core.checkpoint import build_detector, load
from yolov5_core.config import ConfigError
from yolov5_core.dataset import DataError
from yolov5_core.export import (
    ExportConfig,
    Source,
    as_input,
    export,
    read_pictures,
)
from yolov5_core.export_formats import METADATA
from yolov5_core.nms import NmsConfig
from yolov5_core.parity import MAX_BOXES, require
from yolov5_core.pictures import encode

SIZE = (64, 96)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Source:
    path = lively_checkpoint(tmp_path_factory.mktemp("weights") / "best.pt")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Source(payload=load(path), name="best", sha256=digest)


@pytest.fixture(scope="module")
def both(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "new"
    config = ExportConfig(formats=("onnx", "torchscript"), image_hw=SIZE)
    return export(source, config, noise(5), folder)


def test_every_program_says_what_the_original_says(both):
    programs = [check.program.split()[0] for check in both.checks]
    assert programs == ["onnxruntime", "OpenCV", "torch"]
    assert [check.pictures for check in both.checks] == [5, 5, 5]
    assert all(0 < check.boxes < 5e-3 and check.scores < 1e-4 for check in both.checks)
    assert all(check.detections > 5 for check in both.checks)
    require(both.checks)


def test_the_report_names_files_digests_and_figures(both, source):
    assert [path.name for path in both.models] == ["best.onnx", "best.torchscript"]
    said = json.loads(both.reports[0].read_text())
    assert said["passed"] is True
    assert said["source_sha256"] == source.sha256
    for path in both.models:
        assert said["sha256"][path.name] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [check["boxes"] for check in said["checks"]] == [check.boxes for check in both.checks]
    assert "| best.onnx | OpenCV" in both.reports[1].read_text()


def test_both_files_carry_names_anchors_and_stride(both, source):
    made = onnx.load(both.models[0])
    in_onnx = {each.key: json.loads(each.value) for each in made.metadata_props}
    extra = {METADATA: ""}
    load_torchscript(both.models[1], extra)
    in_torchscript = {key: json.loads(value) for key, value in json.loads(extra[METADATA]).items()}
    assert in_onnx == in_torchscript
    assert in_onnx["names"] == NAMES
    assert in_onnx["stride"] == [8, 16, 32]
    assert in_onnx["anchors"][0][0] == [10, 13]
    assert in_onnx["image_size"] == list(SIZE)
    assert in_onnx["source_sha256"] == source.sha256


@torch.no_grad()
def test_a_torchscript_file_takes_any_number_of_pictures(both, source):
    model = build_detector(source.payload, "best")
    loaded = load_torchscript(both.models[1])
    images = torch.rand(3, 3, *SIZE)
    torch.testing.assert_close(loaded(images), model(images)[0], rtol=1e-4, atol=1e-3)


def test_suppression_within_the_file_is_compared_too(source, tmp_path):
    config = ExportConfig(image_hw=SIZE, nms=NmsConfig(confidence=0.5))
    done = export(source, config, noise(3), tmp_path)
    (check,) = done.checks
    assert check.program.startswith("onnxruntime")
    assert check.detections > 0
    require(done.checks)
    (said,) = [p for p in onnx.load(done.models[0]).metadata_props if p.key == "nms"]
    assert json.loads(said.value) == {"confidence": 0.5, "iou": 0.45, "max": 300}


def test_larger_boxes_may_be_as_far_apart_as_float32_goes(source, tmp_path):
    payload = {**source.payload, "model": dict(source.payload["model"])}
    key = next(key for key in payload["model"] if key.endswith("anchors"))
    payload["model"][key] = payload["model"][key] * 1000
    large = Source(payload=payload, name="large", sha256="")
    done = export(large, ExportConfig(formats=("torchscript",), image_hw=SIZE), noise(2), tmp_path)
    assert done.own.boxes > MAX_BOXES
    assert done.checks[0].limit == 4 * done.own.boxes
    assert done.checks[0].boxes > MAX_BOXES
    require(done.checks)


def test_the_reference_is_the_original_in_float64(both, source):
    assert both.own.program == f"torch {torch.__version__}"
    model = build_detector(source.payload, "best")
    shown = torch.from_numpy(np.stack([as_input(each, SIZE) for each in noise(5)])).float() / 255
    with torch.inference_mode():
        single = model(shown)[0].double()
        double = model.double()(shown.double())[0]
    apart = (single - double)[..., :4].abs().max().item()
    assert both.own.boxes == pytest.approx(apart, rel=0.5)


def test_a_size_between_two_strides_is_refused_with_the_nearest(source, tmp_path):
    with pytest.raises(ConfigError, match=r"image size 100: .* multiple of 32, such as 96"):
        export(source, ExportConfig(image_hw=(64, 100)), noise(1), tmp_path)
    with pytest.raises(ConfigError, match=r"image size 0: .* such as 32"):
        export(source, ExportConfig(image_hw=(0, 64)), noise(1), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_model_for_other_than_colour_pictures_is_refused(source, tmp_path):
    grey = {**tiny_description(3).to_mapping(), "ch": 1}
    state = dict(source.payload["model"])
    state["model.0.conv.weight"] = state["model.0.conv.weight"][:, :1]
    odd = Source(payload={"description": grey, "model": state}, name="a", sha256="")
    with pytest.raises(ConfigError, match="takes 1 channels"):
        export(odd, ExportConfig(image_hw=SIZE), noise(1), tmp_path)


def test_without_pictures_there_is_nothing_to_compare_on(source, tmp_path):
    with pytest.raises(ConfigError, match="no pictures to compare on"):
        export(source, ExportConfig(image_hw=SIZE), [], tmp_path)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_package_that_is_not_installed_is_named_with_the_fix(
    source, tmp_path, monkeypatch, package
):
    monkeypatch.delitem(sys.modules, "yolov5_core.onnx_graph", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"{package}.*; pip install onnx onnxruntime"):
        export(source, ExportConfig(image_hw=SIZE), noise(1), tmp_path)


def test_a_picture_is_shown_in_rgb_between_grey_borders():
    blue = np.zeros((10, 20, 3), np.uint8)
    blue[..., 0] = 255  # BGR
    shown = as_input(blue, (64, 64))
    assert shown.shape == (3, 64, 64)
    assert shown[:, 32, 32].tolist() == [0, 0, 255]
    assert shown[:, 0, 0].tolist() == [114, 114, 114]


def test_the_pictures_read_are_spread_over_all_there_are(tmp_path):
    paths = []
    for number in range(30):
        path = tmp_path / f"{number}.png"
        path.write_bytes(encode(np.full((12, 12, 3), number, np.uint8), ".png"))
        paths.append(str(path))
    assert [int(image[0, 0, 0]) for image in read_pictures(paths)][:4] == [0, 1, 3, 4]
    assert len(read_pictures(paths)) == 20
    assert len(read_pictures(paths[:3])) == 3


def test_a_picture_that_cannot_be_used_is_named(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a\.png: .*; take it away or name other pictures"):
        read_pictures([str(path)])
