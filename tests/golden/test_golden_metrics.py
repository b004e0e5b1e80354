from pathlib import Path

import numpy as np
import pytest

from tests.golden_data import golden_files
from yolov5_core.metrics import ConfusionMatrix, average_precision_per_class, match

File = dict[str, np.ndarray]


def files() -> list[Path]:
    return golden_files("metrics_*.npz")


def read(path: Path) -> File:
    return dict(np.load(path))


def images(file: File) -> list[tuple[np.ndarray, np.ndarray]]:
    """Detections and labels per image, without the image column."""
    return [
        (file["detections"][file["detections"][:, 0] == i, 1:], labels_of(file, i))
        for i in range(int(file["n_images"]))
    ]


def labels_of(file: File, image: int) -> np.ndarray:
    return file["labels"][file["labels"][:, 0] == image, 1:]


@pytest.mark.parametrize("path", files())
def test_golden_matches_are_the_same(path: Path) -> None:
    file = read(path)
    for i, (detections, labels) in enumerate(images(file)):
        expected = file["tp_matrix"][file["detections"][:, 0] == i]
        np.testing.assert_array_equal(match(detections, labels), expected)


@pytest.mark.parametrize("path", files())
def test_golden_statistics_of_images_concatenate_to_the_same(path: Path) -> None:
    file = read(path)
    detections = np.concatenate([found for found, _ in images(file)])
    correct = np.concatenate([match(*image) for image in images(file)])
    np.testing.assert_array_equal(correct, file["stat_tp"])
    np.testing.assert_array_equal(detections[:, 4], file["stat_conf"])
    np.testing.assert_array_equal(detections[:, 5], file["stat_pred_cls"])
    targets = np.concatenate([labels[:, 0] for _, labels in images(file)])
    np.testing.assert_array_equal(targets, file["stat_target_cls"])


@pytest.mark.parametrize("path", files())
def test_golden_average_precision_is_the_same(path: Path) -> None:
    file = read(path)
    stats = (file[f"stat_{key}"] for key in ("tp", "conf", "pred_cls", "target_cls"))
    metrics = average_precision_per_class(*stats)
    ours = {
        "classes": metrics.classes,
        "tp": metrics.tp,
        "fp": metrics.fp,
        "p": metrics.precision,
        "r": metrics.recall,
        "f1": metrics.f1,
        "ap": metrics.ap,
        "mean_p_r_map50_map": (
            metrics.mean_precision,
            metrics.mean_recall,
            metrics.map50,
            metrics.map50_95,
        ),
        "fitness": metrics.fitness,
    }
    for key, value in ours.items():
        if key in file:
            np.testing.assert_allclose(np.ravel(value), file[key].ravel(), atol=1e-6, err_msg=key)


def overlaps(detection: np.ndarray, label: np.ndarray) -> bool:
    """IoU above the confusion matrix's 0.45, one pair at a time."""
    ax1, ay1, ax2, ay2 = (float(v) for v in detection[:4])
    bx1, by1, bx2, by2 = (float(v) for v in label[1:])
    inter = max(min(ax2, bx2) - max(ax1, bx1), 0) * max(min(ay2, by2) - max(ay1, by1), 0)
    return inter / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - inter + 1e-7) > 0.45


def false_positives_the_public_matrix_lacks(file: File) -> np.ndarray:
    """Confident detections of the images where nothing matches (spec E.5, quirk)."""
    missing = np.zeros_like(file["confusion"])
    for detections, labels in images(file):
        confident = [row for row in detections if row[4] > 0.25]
        if not any(overlaps(row, label) for row in confident for label in labels):
            for row in confident:
                missing[int(row[5]), -1] += 1
    return missing


@pytest.mark.parametrize("path", files())
def test_golden_confusion_differs_by_the_forgotten_false_positives_only(path: Path) -> None:
    file = read(path)
    matrix = ConfusionMatrix(int(file["nc"]))
    for detections, labels in images(file):
        matrix.add(detections, labels)
    np.testing.assert_array_equal(
        matrix.matrix - file["confusion"], false_positives_the_public_matrix_lacks(file)
    )
