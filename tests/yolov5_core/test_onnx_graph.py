import copy
from dataclasses import replace

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.exported import lively
from tests.tiny import tiny_description
from tests.yolov5_core.test_foreign import V5_ROWS, tiny
from yolov5_core.architecture import ModelDescription, describe, from_mapping
from yolov5_core.model import Detector
from yolov5_core.nms import NmsConfig, non_max_suppression
from yolov5_core.onnx_graph import onnx_model

SIZE = (64, 128)
TABLES = {
    "sppf": tiny_description(3),
    "focus, csp and spp": from_mapping(tiny(**V5_ROWS), "test"),
    "four levels": replace(describe("n6", 3), width_multiple=0.0625),
    "leaky": replace(tiny_description(3), activation="nn.LeakyReLU(0.1)"),
    "hardswish": replace(tiny_description(3), activation="nn.Hardswish()"),
    "relu": replace(tiny_description(3), activation="nn.ReLU()"),
    "identity": replace(tiny_description(3), activation="nn.Identity()"),
}


def content(model: Detector, size=SIZE, **options) -> bytes:
    return onnx_model(model, size, {}, **options).SerializeToString()


def in_onnxruntime(data: bytes, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]


def images_of(count: int, size=SIZE) -> np.ndarray:
    return np.random.default_rng(0).random((count, 3, *size), np.float32)


@torch.no_grad()
def predicted(model: Detector, images: np.ndarray) -> torch.Tensor:
    return model(torch.from_numpy(images))[0]


def assert_same(found: np.ndarray, model: Detector, images: np.ndarray) -> None:
    expected = predicted(model, images).numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found[..., :4], expected[..., :4], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found[..., 4:], expected[..., 4:], atol=1e-4)


@pytest.mark.parametrize("description", TABLES.values(), ids=TABLES)
def test_every_block_and_activation_says_the_same_in_onnxruntime_and_opencv(
    description: ModelDescription,
):
    size = (64, 128) if description.num_levels < 4 else (64, 64)
    model = lively(description)
    data = content(model, size)
    images = images_of(1, size)
    assert_same(in_onnxruntime(data, images), model, images)
    net = cv2.dnn.readNetFromONNX(np.frombuffer(data, np.uint8))
    net.setInput(images)
    assert_same(net.forward(), model, images)


def test_a_depthwise_convolution_keeps_its_groups():
    table = tiny_description(3).to_mapping()
    table["backbone"][1] = [-1, 1, "DWConv", [64, 3, 2]]
    model = lively(from_mapping(table, "test"))
    assert any(m.groups > 1 for m in model.modules() if isinstance(m, torch.nn.Conv2d))
    images = images_of(1)
    assert_same(in_onnxruntime(content(model), images), model, images)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_number_of_pictures_in_a_batch_is_free(count: int):
    model = lively(tiny_description(3))
    images = images_of(count)
    assert_same(in_onnxruntime(content(model), images), model, images)


def test_exporting_changes_neither_the_model_nor_its_mode():
    model = lively(tiny_description(3))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    content(model.train())
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_the_same_model_gives_the_same_bytes():
    assert content(lively(tiny_description(3))) == content(lively(tiny_description(3)))


def test_metadata_is_in_the_file_and_weights_have_the_names_of_the_state_dict():
    model = lively(tiny_description(3))
    made = onnx.load_from_string(onnx_model(model, SIZE, {"names": '["a"]'}).SerializeToString())
    assert {p.key: p.value for p in made.metadata_props} == {"names": '["a"]'}
    weights = {each.name for each in made.graph.initializer}
    assert {"model.0.conv.weight", "model.0.conv.bias", "model.24.m.2.bias"} <= weights
    assert [each.name for each in made.graph.output] == ["output0"]


@pytest.mark.parametrize(
    "config", [NmsConfig(), NmsConfig(confidence=0.6, iou=0.2), NmsConfig(confidence=0.999)]
)
def test_suppression_within_the_graph_keeps_what_ours_keeps(config: NmsConfig):
    model = lively(tiny_description(3))
    images = images_of(3)
    found = in_onnxruntime(content(model, nms=config), images)
    assert found.shape[1] == 7
    for index, expected in enumerate(non_max_suppression(predicted(model, images), config)):
        ours = expected.numpy()
        ours = ours[np.lexsort((-ours[:, 4], ours[:, 5]))]
        np.testing.assert_allclose(found[found[:, 0] == index, 1:], ours, rtol=1e-4, atol=1e-3)
    assert (len(found) > 10) == (config.confidence < 0.9)


def test_suppression_keeps_at_most_so_many_a_class():
    model = lively(tiny_description(3))
    few, many = (
        in_onnxruntime(content(model, nms=NmsConfig(iou=0.9, max_detections=most)), images_of(2))
        for most in (2, 300)
    )
    groups, counts = np.unique(few[:, [0, 6]], axis=0, return_counts=True)
    every, all_counts = np.unique(many[:, [0, 6]], axis=0, return_counts=True)
    assert np.array_equal(groups, every)
    assert counts.tolist() == np.minimum(all_counts, 2).tolist()
    assert all_counts.max() > 2


def test_sums_in_pieces_come_closer_to_the_exact_ones():
    model, images = lively(describe("s", 3)), images_of(1)
    exact = predicted(copy.deepcopy(model).double(), images.astype(np.float64)).numpy()
    apart = []
    for exact_sums in (False, True):
        data = content(model, exact_sums=exact_sums)
        assert_same(in_onnxruntime(data, images), model, images)
        net = cv2.dnn.readNetFromONNX(np.frombuffer(data, np.uint8))
        net.setInput(images)
        apart.append(np.sqrt(((net.forward() - exact)[..., :4] ** 2).mean()))
        assert (longest_sum(data) <= 144) is exact_sums
    assert apart[1] < 0.9 * apart[0]


def longest_sum(data: bytes) -> int:
    """Terms of the longest sum of a convolution."""
    graph = onnx.load_from_string(data).graph
    weights = {each.name: each for each in graph.initializer}
    convolutions = (node for node in graph.node if node.op_type == "Conv")
    return max(int(np.prod(weights[node.input[1]].dims[1:])) for node in convolutions)


def test_sums_in_pieces_keep_groups_and_a_rest_of_channels():
    table = tiny_description(3).to_mapping()
    table["backbone"][1] = [-1, 1, "DWConv", [64, 3, 2]]
    model = lively(replace(from_mapping(table, "test"), width_multiple=0.34))
    images = images_of(2)
    data = content(model, exact_sums=True)
    assert_same(in_onnxruntime(data, images), model, images)
