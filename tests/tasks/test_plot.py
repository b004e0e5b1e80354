from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
import pytest

from tasks.evaluate import evaluate_stage
from tasks.finalize import finalize_stage
from tasks.plot import gallery, plot_stage
from tasks.records import Artifact, StageRecord
from tasks.stage import StageContext, run_stage
from tests.tasks.trained import TrainedRun, torch_as_before, trained_run
from yolov5_core.evaluation import load_evaluation, save_evaluation

PICTURES = [
    *("results.png", "PR_curve.png", "F1_curve.png", "P_curve.png", "R_curve.png"),
    *("confusion_matrix.png", "val_batch0_labels.jpg", "val_batch0_pred.jpg", "worst.jpg"),
]
RED, ORANGE, GREEN = (230, 57, 70), (255, 159, 28), (46, 174, 79)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainedRun]:
    root = tmp_path_factory.mktemp("plot")
    with torch_as_before(root / "cache"):
        yield trained_run(root)


@pytest.fixture(scope="module")
def plotted(run: TrainedRun) -> StageRecord:
    evaluated = evaluate_stage(run.info, run.prepared, run.trained)
    finalized = finalize_stage(run.info, run.trained)
    return plot_stage(run.info, run.prepared, evaluated, finalized)


def picture(run: TrainedRun, name: str) -> np.ndarray:
    data = np.frombuffer(run.store.read_bytes(f"runs/r/plots/{name}"), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert image is not None
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def area(image: np.ndarray, ink: tuple[int, int, int]) -> int:
    """Pixels of about this colour: JPEG changes it a little."""
    return int((np.abs(image.astype(int) - ink).max(axis=2) < 30).sum())


def test_all_pictures_of_a_run_are_drawn(run, plotted):
    assert plotted.result["plots"] == PICTURES
    for name in PICTURES:
        assert np.ptp(picture(run, name)) > 100


@pytest.mark.usefixtures("plotted")
def test_the_worst_pictures_show_what_was_missed_and_what_is_false(run):
    worst = picture(run, "worst.jpg")
    legend = worst[-26:]
    for ink in (RED, ORANGE, GREEN):
        assert area(legend, ink) > 50
    assert area(worst[:-26], ORANGE) > 1000


def test_the_gallery_holds_the_main_pictures_themselves(run, plotted):
    text = gallery(run.store, "r", plotted)
    assert text.count("data:image/jpeg;base64,") == 5
    assert "**worst.jpg** The most harmful errors" in text
    assert "F1_curve" not in text


def test_pictures_too_large_for_the_gallery_are_shrunk(run):
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), np.uint8)
    name = "runs/n/plots/worst.jpg"
    run.store.put_bytes(cv2.imencode(".jpg", cv2.blur(noise, (9, 9)))[1].tobytes(), name)
    artifact = Artifact(key=name, size=0, sha256="")
    five = replace(run.trained, outputs=(artifact,) * 5)
    assert 100_000 < len(gallery(run.store, "n", five)) < 512 * 1024  # Prefect's limit


@pytest.mark.usefixtures("plotted")
def test_without_errors_there_are_no_worst_pictures(run, tmp_path):
    found = load_evaluation(
        run.store.get_file("runs/r/evaluation/evaluation.npz", tmp_path / "found.npz")
    )
    perfect = [
        replace(i, detections=np.insert(i.labels[:, [1, 2, 3, 4, 0]], 4, 0.9, axis=1))
        for i in found.images
    ]

    def evaluate(context: StageContext) -> dict[str, object]:
        path = context.scratch / "evaluation.npz"
        save_evaluation(replace(found, images=tuple(perfect)), path)
        context.publish(path, "evaluation/evaluation.npz")
        return {}

    info = replace(run.info, run="q")
    evaluated = run_stage(run.store, "q", "evaluate", {}, evaluate)
    plotted = plot_stage(info, run.prepared, evaluated, finalize_stage(info, run.trained))
    assert plotted.result["plots"] == PICTURES[:-1]
