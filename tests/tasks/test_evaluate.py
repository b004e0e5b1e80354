import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tasks.datasets import open_dataset
from tasks.evaluate import evaluate_stage
from tasks.records import StageRecord
from tests.tasks.trained import VAL, TrainedRun, torch_as_before, trained_run
from tests.undone import undo
from yolov5_core.evaluation import load_evaluation
from yolov5_core.synthetic import NAMES


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainedRun]:
    root = tmp_path_factory.mktemp("evaluate")
    with torch_as_before(root / "cache"):
        yield trained_run(root)


@pytest.fixture(scope="module")
def evaluated(run: TrainedRun) -> StageRecord:
    return evaluate_stage(run.info, run.prepared, run.trained)


def read(run: TrainedRun, name: str) -> Any:
    return json.loads(run.store.read_bytes(f"runs/r/evaluation/{name}"))


def test_the_stage_leaves_arrays_report_and_predictions(run, evaluated):
    names = [output.key.rsplit("/", 1)[1] for output in evaluated.outputs]
    assert names == ["evaluation.npz", "predictions.json", "evaluation.json"]
    report = read(run, "evaluation.json")
    confusion = report.pop("confusion")
    assert report == evaluated.result
    assert confusion["names"] == [*NAMES, "background"]
    assert len(confusion["predicted_by_true"]) == len(NAMES) + 1
    assert report["epoch"] == 0
    assert report["classes"][0]["class"] == "all"
    assert report["classes"][0]["images"] == VAL


def test_the_predictions_are_all_that_was_found(run, evaluated, tmp_path):
    store, arrays = run.store, evaluated.outputs[0]
    path = store.get_file(arrays.key, tmp_path / "x.npz", arrays)
    images = load_evaluation(path).images
    predictions = read(run, "predictions.json")
    assert len(predictions) == sum(len(image.detections) for image in images) > 0
    val = open_dataset(store, run.prepared).splits["val"]
    stems = {record.name.rsplit("/", 1)[1].removesuffix(".jpg") for record in val}
    assert {row["image_id"] for row in predictions} <= stems
    first, image = predictions[0], images[0]
    assert first["score"] == pytest.approx(image.detections[0, 4], abs=5e-6)
    assert first["bbox"][:2] == pytest.approx(image.detections[0, :2], abs=5e-4)


def test_the_worst_pictures_are_named_with_their_errors(run, evaluated):
    worst = evaluated.result["worst"]["pictures"]
    val = open_dataset(run.store, run.prepared).splits["val"]
    labels = {record.name: len(record.labels) for record in val}
    assert worst
    assert [row["harm"] for row in worst] == sorted((r["harm"] for r in worst), reverse=True)
    for row in worst:
        assert row["missed"] <= labels[row["image"]]
        assert row["missed"] + row["correct"] == labels[row["image"]]
    assert sum(row["false"] for row in worst) > 0


def test_tables_of_classes_and_sizes_are_logged(run, evaluated, caplog):
    undo(run.store, "r", "evaluate")
    with caplog.at_level(logging.INFO, "tasks"):
        again = evaluate_stage(run.info, run.prepared, run.trained)
    assert again.result == evaluated.result
    assert again.outputs == evaluated.outputs  # the same bytes
    lines = [record.getMessage() for record in caplog.records]
    for word in ("Class", "all", "Size", "small", "medium", "large", "COCO"):
        assert any(word in line for line in lines)


def test_it_is_done_once_for_each_kind_of_evaluation(run):
    plain = evaluate_stage(run.info, run.prepared, run.trained)
    assert evaluate_stage(run.info, run.prepared, run.trained) == plain
    info = replace(run.info, config=replace(run.info.config, test_time_augmentation=True))
    augmented = evaluate_stage(info, run.prepared, run.trained)
    assert augmented.attempt == plain.attempt + 1
    assert augmented.result["metrics"] != plain.result["metrics"]
    assert set(augmented.result) == set(plain.result)
