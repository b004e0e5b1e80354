import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from yolov5_core.metrics import DetectionMetrics, average_precision_per_class
from yolov5_core.plots import (
    plot_confusion,
    plot_f1_curve,
    plot_labels,
    plot_p_curve,
    plot_pr_curve,
    plot_r_curve,
    plot_results,
)
from yolov5_core.results import ResultsRow

CURVES = [plot_pr_curve, plot_f1_curve, plot_p_curve, plot_r_curve]


def result_rows(epochs: int, cls: float = 0.02, metric: float = 0.8) -> list[ResultsRow]:
    return [
        ResultsRow(
            epoch=epoch,
            epochs=epochs,
            memory="0G",
            losses=(0.1 / (epoch + 1), 0.05, cls, 0.2),
            targets=12,
            image_size=160,
            results=(metric, metric, metric * epoch / epochs, metric / 2, 0.1, 0.05, cls),
        )
        for epoch in range(epochs)
    ]


def random_labels(count: int, num_classes: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, num_classes, (count, 1))
    return np.hstack([classes, rng.uniform(0.1, 0.9, (count, 4))]).astype(np.float32)


def random_metrics(num_classes: int, count: int = 400) -> DetectionMetrics:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, num_classes, count)
    correct = rng.random((count, 1)) > np.linspace(0.1, 0.9, 10)
    return average_precision_per_class(correct, rng.random(count), classes, classes)


def random_confusion(num_classes: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 3, (num_classes + 1, num_classes + 1)).astype(float)
    return matrix + 30 * np.eye(num_classes + 1)


def names_of(num_classes: int) -> list[str]:
    return [f"class {index}" for index in range(num_classes)]


def decoded(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None
    assert min(image.shape[:2]) > 400
    assert max(image.shape[:2]) < 2500
    assert np.ptp(image) > 100  # something is drawn
    return image


def test_plots_import_without_torch_and_without_pyplot():
    code = (
        "import yolov5_core.plots, yolov5_core.pictures, yolov5_core.synthetic, sys;"
        "assert 'torch' not in sys.modules; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603  our own code


@pytest.mark.parametrize("epochs", [1, 300])
def test_results_of_any_number_of_epochs_are_plotted(tmp_path: Path, epochs: int):
    path = plot_results({"run": result_rows(epochs)}, tmp_path / "results.png")
    assert path == tmp_path / "results.png"
    decoded(path)


def test_no_run_at_all_is_plotted_as_empty_panels(tmp_path: Path):
    decoded(plot_results({}, tmp_path / "results.png"))


def test_several_runs_share_the_panels(tmp_path: Path):
    runs = {"a_run": result_rows(5), "_hidden $": result_rows(9), "empty": []}
    decoded(plot_results(runs, tmp_path / "results.png"))


def test_zero_losses_are_not_drawn(tmp_path: Path):
    def blue_pixels(cls: float) -> int:
        image = decoded(plot_results({"run": result_rows(9, cls)}, tmp_path / "results.png"))
        height, width = image.shape[:2]
        panel = image[: height // 2, round(0.45 * width) : round(0.55 * width)]  # the third of five
        blue, red = panel[..., 0].astype(int), panel[..., 2].astype(int)
        return int((blue - red > 100).sum())

    assert blue_pixels(0.02) > 100
    assert blue_pixels(0.0) == 0


def test_values_that_are_not_finite_are_left_out(tmp_path: Path):
    rows = result_rows(4, cls=float("nan"), metric=float("inf"))
    decoded(plot_results({"run": rows}, tmp_path / "results.png"))


def test_epochs_without_evaluation_leave_the_metric_panels_empty(tmp_path: Path):
    rows = [dataclasses.replace(row, results=(0.0,) * 7) for row in result_rows(4)]
    image = decoded(plot_results({"run": rows}, tmp_path / "results.png"))
    metrics = image[:, round(0.85 * image.shape[1]) :]  # recall and mAP@0.5:0.95
    assert (metrics[..., 0].astype(int) - metrics[..., 2] <= 100).all()  # no blue line


@pytest.mark.parametrize(("num_classes", "count"), [(1, 0), (4, 1), (20, 4000), (80, 4000)])
def test_labels_of_any_number_of_classes_are_plotted(tmp_path: Path, num_classes: int, count: int):
    labels = random_labels(count, num_classes)
    decoded(plot_labels(labels, names_of(num_classes), tmp_path / "labels.png"))


@pytest.mark.parametrize("plot", CURVES)
@pytest.mark.parametrize("num_classes", [1, 20, 80])
def test_curves_of_any_number_of_classes_are_plotted(
    tmp_path: Path,
    plot: Callable[[DetectionMetrics, list[str], Path], Path],
    num_classes: int,
):
    decoded(plot(random_metrics(num_classes), names_of(num_classes), tmp_path / "curve.png"))


@pytest.mark.parametrize("plot", [plot_pr_curve, plot_f1_curve])
def test_metrics_without_labels_give_an_empty_curve_plot(
    tmp_path: Path, plot: Callable[[DetectionMetrics, list[str], Path], Path]
):
    nothing = average_precision_per_class(np.zeros((0, 10), bool), [], [], [])
    decoded(plot(nothing, ["a", "b"], tmp_path / "curve.png"))


@pytest.mark.parametrize("num_classes", [1, 12, 20, 80])
def test_confusion_of_any_number_of_classes_is_plotted(tmp_path: Path, num_classes: int):
    matrix = random_confusion(num_classes)
    decoded(plot_confusion(matrix, names_of(num_classes), tmp_path / "confusion_matrix.png"))


def test_a_confusion_matrix_without_counts_is_blank(tmp_path: Path):
    decoded(plot_confusion(np.zeros((3, 3)), ["a", "b"], tmp_path / "confusion_matrix.png"))


def test_class_names_may_hold_anything(tmp_path: Path):
    names = ["_under", "a$b$", "$\\frac", "{}", "x" * 200, ""]
    decoded(plot_labels(random_labels(50, 6), names, tmp_path / "labels.png"))
    decoded(plot_pr_curve(random_metrics(6), names, tmp_path / "pr.png"))
    decoded(plot_confusion(random_confusion(6), names, tmp_path / "confusion.png"))


def test_the_same_input_gives_the_same_bytes(tmp_path: Path):
    for folder in ("a", "b"):
        plot_results({"run": result_rows(5)}, tmp_path / folder / "results.png")
        plot_labels(random_labels(90, 4), names_of(4), tmp_path / folder / "labels.png")
        plot_pr_curve(random_metrics(4), names_of(4), tmp_path / folder / "pr.png")
        plot_confusion(random_confusion(4), names_of(4), tmp_path / folder / "confusion.png")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_inputs_are_not_changed(tmp_path: Path):
    labels, confusion, metrics = random_labels(90, 4), random_confusion(4), random_metrics(4)
    copies = labels.copy(), confusion.copy(), metrics.pr_curve.copy(), metrics.f1_curve.copy()
    plot_labels(labels, names_of(4), tmp_path / "labels.png")
    plot_confusion(confusion, names_of(4), tmp_path / "confusion.png")
    plot_pr_curve(metrics, names_of(4), tmp_path / "pr.png")
    plot_f1_curve(metrics, names_of(4), tmp_path / "f1.png")
    for before, after in zip(
        copies, (labels, confusion, metrics.pr_curve, metrics.f1_curve), strict=True
    ):
        assert np.array_equal(before, after)


def test_a_plot_replaces_an_older_file_and_leaves_no_other(tmp_path: Path):
    path = tmp_path / "results.png"
    path.write_text("old")
    plot_results({"run": result_rows(3)}, path)
    decoded(path)
    assert list(tmp_path.iterdir()) == [path]
