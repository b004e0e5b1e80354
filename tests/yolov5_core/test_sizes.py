import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov5_core.coco_metrics import coco_metrics
from yolov5_core.evaluation import ImageDetections, detection_metrics
from yolov5_core.sizes import metrics_by_size

SMALL = (0.0, 0.0, 20.0, 20.0)
MEDIUM = (100.0, 100.0, 150.0, 150.0)
LARGE = (200.0, 200.0, 400.0, 400.0)
BY_SIZE = (SMALL, MEDIUM, LARGE)


def image(detections: list[list[float]], labels: list[list[float]]) -> ImageDetections:
    return ImageDetections(
        0,
        np.array(detections, np.float32).reshape(-1, 6),
        np.array(labels, np.float32).reshape(-1, 5),
    )


def labels(*boxes: tuple[float, ...]) -> list[list[float]]:
    return [[0, *box] for box in boxes]


def found(*boxes: tuple[float, ...], score: float = 0.9) -> list[list[float]]:
    return [[*box, score, 0] for box in boxes]


@pytest.mark.parametrize("size", [0, 1, 2])
def test_who_finds_objects_of_one_size_only_is_perfect_there_and_blind_elsewhere(size: int):
    by_size = metrics_by_size([image(found(BY_SIZE[size]), labels(*BY_SIZE))], 0.25)
    assert [m.size for m in by_size] == ["small", "medium", "large"]
    for index, m in enumerate(by_size):
        expected = 0.995 if index == size else 0
        assert m.labels == 1
        assert (m.map50, m.map50_95) == pytest.approx((expected, expected))
        assert m.recall == float(index == size)


def test_false_detections_count_against_their_own_size():
    wrong = (500.0, 500.0, 510.0, 510.0)
    detections = [*found(wrong), *found(*BY_SIZE, score=0.8)]
    small, medium, large = metrics_by_size([image(detections, labels(*BY_SIZE))], 0.25)
    assert small.map50 < 0.51
    assert medium.map50 == large.map50 == pytest.approx(0.995)


def test_recall_counts_detections_above_the_confidence():
    detections = [*found(SMALL, score=0.4), *found(LARGE, score=0.8)]
    seen = [image(detections, labels(SMALL, LARGE))]
    assert [m.recall for m in metrics_by_size(seen, 0.3)][::2] == [1, 1]
    assert [m.recall for m in metrics_by_size(seen, 0.6)][::2] == [0, 1]


def test_recall_is_the_mean_over_the_classes():
    three = [[0, *SMALL], [1, *LARGE], [1, *MEDIUM], [1, 0, 50, 20, 70]]
    small, *_ = metrics_by_size([image(found(SMALL), three)], 0.25)
    assert (small.labels, small.recall) == (2, 0.5)  # all of class 0, none of class 1


def test_a_size_without_labels_has_no_metrics():
    small, medium, large = metrics_by_size([image(found(*BY_SIZE), labels(MEDIUM))], 0.25)
    for m in (small, large):
        assert m.labels == 0
        assert all(math.isnan(value) for value in (m.map50, m.map50_95, m.recall))
    assert medium.map50 == pytest.approx(0.995)  # what is not of its size is no error of its own
    assert [m.labels for m in metrics_by_size([], 0.25)] == [0, 0, 0]


def test_an_area_on_the_border_belongs_to_both_sizes_as_in_coco():
    border = (0.0, 0.0, 32.0, 32.0)
    small, medium, large = metrics_by_size([image(found(border), labels(border))], 0.25)
    assert [small.labels, medium.labels, large.labels] == [1, 1, 0]
    coco = coco_metrics([image(found(border), labels(border))], 1)
    assert (coco.ap_small, coco.ap_medium) == pytest.approx((1, 1))


@given(seed=st.integers(0, 2**32))
def test_objects_of_one_size_have_the_metrics_of_the_whole_set(seed: int):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 900, (30, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(40, 80, (30, 2))], 1)
    near = boxes + rng.normal(0, 4, boxes.shape)  # from 31 to 97 pixels: some leave the size
    near[:, 2:] = np.clip(near[:, 2:], near[:, :2] + 33, near[:, :2] + 90)
    classes = rng.integers(0, 2, (30, 1))
    seen = image(
        np.concatenate([near, rng.random((30, 1)), classes], 1).tolist(),
        np.concatenate([classes, boxes], 1).tolist(),
    )
    _, medium, _ = metrics_by_size([seen], 0.25)
    whole = detection_metrics([seen])
    assert (medium.map50, medium.map50_95) == (whole.map50, whole.map50_95)
