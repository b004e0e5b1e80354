import pickle
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yolov5_core.evaluation import (
    Evaluation,
    ImageDetections,
    detection_metrics,
    load_evaluation,
    match_images,
    save_evaluation,
)
from yolov5_core.metrics import DetectionMetrics, average_precision_per_class


def evaluation(counts: tuple[tuple[int, int], ...]) -> Evaluation:
    """Pictures with so many detections and labels each."""
    rng = np.random.default_rng(0)
    images = tuple(
        ImageDetections(
            index=10 - i,
            detections=rng.random((found, 6), np.float32),
            labels=rng.random((labels, 5), np.float32),
            crowd=rng.random((i % 3, 5), np.float32),
        )
        for i, (found, labels) in enumerate(counts)
    )
    total = sum(found for found, _ in counts)
    metrics = average_precision_per_class(
        rng.random((total, 10)) < 0.5,
        rng.random(total),
        rng.integers(0, 2, total),
        np.array([0, 0, 1]),
    )
    return Evaluation(metrics, (0.1, 0.2, 0.3), np.arange(9.0).reshape(3, 3), images)


@pytest.mark.parametrize(
    "counts",
    [((3, 2), (1, 4)), ((0, 0), (2, 0), (0, 3)), ((0, 1),), ((2, 1), (0, 0)), ()],
)
def test_what_was_saved_is_loaded(tmp_path: Path, counts: tuple[tuple[int, int], ...]):
    before = evaluation(counts)
    after = load_evaluation(save_evaluation(before, tmp_path / "deep" / "x.npz"))
    assert after.losses == before.losses
    assert after.results == before.results
    assert np.array_equal(after.confusion, before.confusion)
    for field in fields(DetectionMetrics):
        ours, theirs = (getattr(e.metrics, field.name) for e in (after, before))
        assert np.array_equal(ours, theirs)
    assert len(after.images) == len(before.images)
    for image, original in zip(after.images, before.images, strict=True):
        assert image.index == original.index
        assert np.array_equal(image.detections, original.detections)
        assert np.array_equal(image.labels, original.labels)
        assert np.array_equal(image.crowd, original.crowd)
        assert image.detections.dtype == np.float32


def test_results_are_the_last_seven_columns_of_a_row():
    e = evaluation(((3, 2),))
    m = e.metrics
    assert e.results == (m.mean_precision, m.mean_recall, m.map50, m.map50_95, 0.1, 0.2, 0.3)


def image(detections: list[list[float]], labels: list[list[float]]) -> ImageDetections:
    found, truth = (np.array(rows, np.float32) for rows in (detections, labels))
    return ImageDetections(0, found.reshape(-1, 6), truth.reshape(-1, 5))


BOX, FAR = (10.0, 10.0, 30.0, 30.0), (100.0, 100.0, 120.0, 120.0)


def test_matches_of_images_count_labels_through():
    images = [
        image([[*BOX, 0.9, 0]], [[0, *FAR], [0, *BOX]]),
        image([], [[0, *BOX]]),
        image([[*FAR, 0.8, 1], [*BOX, 0.7, 1]], [[1, *BOX]]),
    ]
    matches = match_images(images)
    assert matches.label_of[:, 0].tolist() == [1, -1, 3]
    assert matches.correct[:, 0].tolist() == [True, False, True]
    assert matches.detections[:, 4] == pytest.approx([0.9, 0.8, 0.7])
    assert matches.labels[:, 0].tolist() == [0, 0, 0, 1]
    assert not matches.in_crowd.any()
    nothing = match_images([])
    assert nothing.label_of.shape == nothing.in_crowd.shape == (0, 10)


def test_what_finds_no_label_is_in_a_crowd_up_to_its_share_of_it():
    half = (100.0, 90.0, 120.0, 112.5)  # holds 62.5 % of FAR
    seen = image([[*FAR, 0.9, 0], [*BOX, 0.8, 0]], [[0, *BOX]])
    crowded = ImageDetections(0, seen.detections, seen.labels, np.array([[0, *half], [0, *BOX]]))
    matches = match_images([crowded])
    assert matches.in_crowd.tolist() == [[True] * 3 + [False] * 7, [False] * 10]
    assert detection_metrics([crowded]).map50 > detection_metrics([seen]).map50


class Canary:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_not_executed(tmp_path: Path):
    path, canary = tmp_path / "x.npz", tmp_path / "canary"
    save_evaluation(evaluation(((1, 1),)), path)
    with np.load(path) as file:
        arrays = dict(file)
    arrays["confusion"] = np.array([Canary(canary)], dtype=object)
    np.savez(path, allow_pickle=True, **arrays)
    with pytest.raises(ValueError, match="allow_pickle"):
        load_evaluation(path)
    assert not canary.exists()
    pickle.loads(pickle.dumps(Canary(canary)))  # noqa: S301  shows that the canary works
    assert canary.exists()
