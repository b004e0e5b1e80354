"""What is found is what the evaluation finds, whatever pictures lie beside."""

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
import torch

from tests.tiny import CPU, NAMES, tiny_description
from yolov5_core.check import scan
from yolov5_core.config import Hyperparameters
from yolov5_core.dataset import Record
from yolov5_core.evaluate import EVALUATION_NMS, evaluate, evaluate_augmented
from yolov5_core.evaluation import Evaluation
from yolov5_core.loader import validation_loader
from yolov5_core.loss import DetectionLoss
from yolov5_core.model import Detector
from yolov5_core.nms import NmsConfig
from yolov5_core.predict import PredictConfig, Predictor
from yolov5_core.samples import ImageReader
from yolov5_core.start import new_detector

SIZE = 96  # pixels
SHAPES = ((64, 96), (96, 64), (40, 41), (147, 203), (96, 96), (64, 96))  # height, width


@pytest.fixture(scope="module")
def model() -> Detector:
    """Its batch norms know what pictures are like, so scores differ from place to place."""
    found = new_detector(tiny_description(), 3).train()
    for module in found.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        found(torch.rand(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)))
    for level in found.detect.m:
        level.weight.data.mul_(5)
        level.bias.data.view(3, -1)[:, 4:] = 0
    return found.eval()


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, ...]:
    folder = tmp_path_factory.mktemp("shapes") / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate(SHAPES):
        coarse = rng.integers(0, 255, (6, 6, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), cv2.resize(coarse, (width, height)))
    return tuple(scan([str(path) for path in sorted(folder.iterdir())], len(NAMES)).records)


def images_of(records: Sequence[Record]) -> list[np.ndarray]:
    return [cv2.imread(str(record.place.file)) for record in records]


def evaluated(model: Detector, records: Sequence[Record], *, augmented: bool) -> Evaluation:
    """The evaluation's detections, every picture on a canvas of its own."""
    reader = ImageReader(records, SIZE, augmenting=False)
    batches = validation_loader(reader, batch_size=1, workers=0, stride=32, pin=False)
    if augmented:
        return evaluate_augmented(model, batches, CPU)
    gains = Hyperparameters().loss_config(num_levels=3, num_classes=len(NAMES), image_size=SIZE)
    loss = DetectionLoss(model.detect.anchors, model.detect.stride, len(NAMES), gains)
    return evaluate(model, batches, loss, CPU)


def assert_same(a: np.ndarray, b: np.ndarray) -> None:
    """Row for row, in any order: of nearly equal scores either may be first."""
    assert len(a) == len(b)
    near = np.isclose(a[:, None], b[None], rtol=1e-4, atol=2e-3).all(2)
    assert near.any(0).all()
    assert near.any(1).all()


@pytest.mark.parametrize("augmented", [False, True])
def test_detections_are_those_of_the_evaluation(model, records, augmented):
    config = PredictConfig(image_size=SIZE, nms=EVALUATION_NMS, augmented=augmented)
    found = Predictor(model, config, CPU).predict(images_of(records))
    oracle = {i.index: i.detections for i in evaluated(model, records, augmented=augmented).images}
    for index, own in enumerate(found):
        assert len(own) > 20
        assert_same(own, oracle[index])


def test_what_is_found_does_not_depend_on_the_pictures_beside(model, records):
    predictor = Predictor(model, PredictConfig(image_size=SIZE), CPU)
    images = images_of(records)
    together = predictor.predict(images)
    for image, beside_others in zip(images, together, strict=True):
        (alone,) = predictor.predict([image])
        assert_same(alone, beside_others)


def test_detections_lie_in_the_picture_above_the_threshold_best_first(model, records):
    nms = NmsConfig(confidence=0.3, max_detections=7, classes=(1, 2))
    config = PredictConfig(image_size=SIZE, nms=nms)
    for image, rows in zip(
        images_of(records),
        Predictor(model, config, CPU).predict(images_of(records)),
        strict=True,
    ):
        height, width = image.shape[:2]
        assert 0 < len(rows) <= 7
        assert (rows[:, :2] >= 0).all()
        assert (rows[:, 2:4] <= [width, height]).all()
        assert (rows[:, 4] > 0.3).all()
        assert (np.diff(rows[:, 4]) <= 0).all()
        assert set(rows[:, 5]) <= {1.0, 2.0}


def test_pictures_stay_as_they_are_and_the_clock_runs(model, records):
    predictor = Predictor(model, PredictConfig(image_size=SIZE), CPU)
    images = images_of(records)
    before = [image.copy() for image in images]
    assert predictor.predict([]) == []
    predictor.predict(images)
    for image, copy in zip(images, before, strict=True):
        np.testing.assert_array_equal(image, copy)
    times = predictor.times
    assert times.pictures == len(images)
    assert min(times.prepare_s, times.network_s, times.nms_s) > 0
