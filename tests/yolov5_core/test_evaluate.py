from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.tiny import CPU, NAMES, tiny_description
from yolov5_core.config import Hyperparameters
from yolov5_core.dataset import Record
from yolov5_core.evaluate import EVALUATION_NMS, evaluate, evaluate_augmented, to_float
from yolov5_core.evaluation import Evaluation
from yolov5_core.loader import ValidationBatch, validation_loader
from yolov5_core.loss import DetectionLoss
from yolov5_core.model import Detector, forward_augmented
from yolov5_core.nms import non_max_suppression
from yolov5_core.samples import ImageReader
from yolov5_core.start import new_detector

Data = tuple[tuple[Record, ...], tuple[Record, ...]]


def build() -> Detector:
    return new_detector(tiny_description(), 0).eval()


def loss_of(model: Detector) -> DetectionLoss:
    gains = Hyperparameters().loss_config(num_levels=3, num_classes=len(NAMES), image_size=64)
    return DetectionLoss(model.detect.anchors, model.detect.stride, len(NAMES), gains)


def batches(records: tuple[Record, ...], batch_size: int = 3) -> list[ValidationBatch]:
    reader = ImageReader(records, 64, augmenting=False)
    return list(validation_loader(reader, batch_size=batch_size, workers=0, stride=32, pin=False))


class Oracle(nn.Module):
    """Knows the labels of the batches to come, and says them through the eyes of a detector."""

    def __init__(self, model: Detector, coming: list[ValidationBatch], shift: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.detect = model.detect
        self.coming: Iterator[ValidationBatch] = iter(coming)
        self.shift = shift  # to the right, in widths of a box

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        _, raw = self.model(images)
        targets = next(self.coming).targets
        decoded = torch.zeros(len(images), 16, 5 + len(NAMES))
        height, width = images.shape[2:]
        for image in range(len(images)):
            own = targets[targets[:, 0] == image]
            rows = decoded[image, : len(own)]
            rows[:, :4] = own[:, 2:] * torch.tensor([width, height, width, height])
            rows[:, 0] += self.shift * rows[:, 2]
            rows[:, 4] = 0.9
            rows[torch.arange(len(own)), 5 + own[:, 1].long()] = 1.0
        return decoded, raw


def evaluated_oracle(records: tuple[Record, ...], shift: float = 0.0) -> Evaluation:
    model, coming = build(), batches(records)
    oracle = cast(Detector, Oracle(model, coming, shift))
    return evaluate(oracle, coming, loss_of(model), CPU)


def test_who_knows_the_labels_is_perfect(tiny_data: Data):
    found = evaluated_oracle(tiny_data[1])
    assert found.results[:4] == pytest.approx((1, 1, 0.995, 0.995), abs=0.006)  # 101-point AP
    labels = sum(len(record.labels) for record in tiny_data[1])
    assert np.trace(found.confusion) == labels == found.confusion.sum()


def test_who_is_nearly_a_box_off_finds_nothing(tiny_data: Data):
    found = evaluated_oracle(tiny_data[1], shift=0.9)
    assert found.results[:4] == (0, 0, 0, 0)


def test_labels_and_detections_are_in_pixels_of_the_picture(tiny_data: Data):
    found = evaluated_oracle(tiny_data[1])
    assert sorted(image.index for image in found.images) == [0, 1, 2, 3]
    for image in found.images:
        record = tiny_data[1][image.index]
        cx, cy, w, h = record.labels[:, 1:].T * np.array(
            [record.width, record.height, record.width, record.height]
        ).reshape(4, 1)
        expected = np.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), 1)
        np.testing.assert_allclose(image.labels[:, 1:], expected, atol=0.6)  # letterbox rounding
        assert len(image.detections) == len(record.labels)


def test_a_model_that_finds_nothing_has_zeros_and_misses_everything(tiny_data: Data):
    model = build()
    for conv in model.detect.m:  # type: ignore[union-attr]
        conv.bias.data.view(3, -1)[:, 4] = -100
    found = evaluate(model, batches(tiny_data[1]), loss_of(model), CPU)
    assert found.results[:4] == (0, 0, 0, 0)
    assert all(image.detections.shape == (0, 6) for image in found.images)
    labels = sum(len(record.labels) for record in tiny_data[1])
    assert found.confusion[-1].sum() == labels == found.confusion.sum()
    assert np.isfinite(found.results).all()


def test_a_set_without_labels_is_all_zeros(tiny_data: Data):
    empty = tuple(record for record in tiny_data[0] if not len(record.labels))
    model = build()
    found = evaluate(model, batches(empty), loss_of(model), CPU)
    assert found.results[:5] == (0, 0, 0, 0, 0)
    assert found.results[5] > 0  # objectness
    assert found.images[0].labels.shape == (0, 5)


def test_detections_on_a_picture_without_labels_are_false_positives(tiny_data: Data):
    empty = next(record for record in tiny_data[0] if not len(record.labels))
    model = build()
    for conv in model.detect.m:  # type: ignore[union-attr]
        conv.bias.data.view(3, -1)[:, 4:6] = 4  # a disc everywhere
    alone = evaluate(model, batches(tiny_data[1]), loss_of(model), CPU)
    beside = evaluate(model, batches((*tiny_data[1], empty)), loss_of(model), CPU)
    assert beside.confusion[:, -1].sum() > alone.confusion[:, -1].sum()
    assert beside.confusion[-1].sum() == alone.confusion[-1].sum()


def test_false_detections_in_a_crowd_region_do_not_count(tiny_data: Data):
    whole = np.array([[c, 0.5, 0.5, 1, 1] for c in range(len(NAMES))], np.float32)
    crowded = tuple(replace(record, crowd=whole) for record in tiny_data[1])
    model = build()
    for conv in model.detect.m:  # type: ignore[union-attr]
        conv.bias.data.view(3, -1)[:, 4:6] = 4  # a disc everywhere
    plain = evaluate(model, batches(tiny_data[1]), loss_of(model), CPU)
    found = evaluate(model, batches(crowded), loss_of(model), CPU)
    rows = np.concatenate([image.detections for image in found.images])
    in_the_margin = (rows[:, 2:4] <= rows[:, :2]).any(1)  # beside the picture: clipped to nothing
    assert plain.confusion[:, -1].sum() > found.confusion[:, -1].sum()
    assert found.confusion[:, -1].sum() == (in_the_margin & (rows[:, 4] > 0.25)).sum()
    assert found.losses == plain.losses
    assert np.array_equal(found.images[0].detections, plain.images[0].detections)


def test_crowd_regions_are_in_pixels_of_the_picture(tiny_data: Data):
    crowd = np.array([[2, 0.5, 0.25, 0.5, 0.5]], np.float32)
    record = replace(tiny_data[1][0], crowd=crowd)
    model = build()
    found = evaluate(model, batches((record,)), loss_of(model), CPU)
    width, height = record.width, record.height
    expected = [2, 0.25 * width, 0, 0.75 * width, 0.5 * height]
    assert found.images[0].crowd.tolist() == [expected]
    assert found.images[0].labels.shape == (len(record.labels), 5)


# --- test-time augmentation


def test_test_time_augmentation_finds_what_the_three_passes_find(tiny_data: Data):
    model = build()
    seen: list[int] = []
    coming = batches(tiny_data[1])
    found = evaluate_augmented(model, coming, CPU, seen.append)
    decoded = forward_augmented(model, to_float(coming[0].images, CPU))
    assert seen == [3, 1]
    assert np.isnan(found.losses).all()
    assert np.isfinite(found.results[:4]).all()
    expected = non_max_suppression(decoded, EVALUATION_NMS)
    for image, detections in zip(found.images, expected, strict=False):
        assert image.detections[:, 4:].tolist() == detections[:, 4:].tolist()
    plain = evaluate(model, coming, loss_of(model), CPU)
    assert len(found.images[0].detections) != len(plain.images[0].detections)
    assert [i.index for i in found.images] == [i.index for i in plain.images]


def test_test_time_augmentation_changes_nothing_in_the_model(tiny_data: Data):
    model = build()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    evaluate_augmented(model, batches(tiny_data[1]), CPU)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not model.training


def test_no_batch_at_all_is_all_zeros():
    model = build()
    found = evaluate(model, [], loss_of(model), CPU)
    assert found.results == (0,) * 7


def test_losses_are_means_over_the_batches(tiny_data: Data):
    model, loss = build(), loss_of(build())
    two = batches(tiny_data[1], batch_size=2)
    parts = [evaluate(model, [batch], loss, CPU).losses for batch in two]
    whole = evaluate(model, two, loss, CPU).losses
    assert whole == pytest.approx(np.mean(parts, 0))


def test_evaluating_changes_neither_the_model_nor_the_balance(tiny_data: Data):
    model = build()
    loss = loss_of(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    seen: list[int] = []
    evaluate(model, batches(tiny_data[1]), loss, CPU, seen.append)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not model.training
    assert loss.balance == [4.0, 1.0, 0.4]
    assert seen == [3, 1]


def test_images_become_floats_between_zero_and_one():
    images = to_float(torch.tensor([[[[0, 255]], [[51, 0]], [[0, 0]]]], dtype=torch.uint8), CPU)
    assert images.dtype == torch.float32
    assert images[0, :2, 0].tolist() == [[0, 1], [pytest.approx(0.2), 0]]
