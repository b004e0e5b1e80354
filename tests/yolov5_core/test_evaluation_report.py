import json

import numpy as np
import pytest

from yolov5_core.evaluation import Evaluation, ImageDetections, detection_metrics
from yolov5_core.evaluation_report import evaluation_report, more_tables
from yolov5_core.metrics import ConfusionMatrix, table_rows

NAMES = ("cat", "dog", "bird")
SMALL = (10.0, 10.0, 30.0, 30.0)
LARGE = (100.0, 100.0, 220.0, 220.0)
PICTURES = ("val/a.jpg", "val/b.jpg")


def evaluation(*images: tuple[list[list[float]], list[list[float]]]) -> Evaluation:
    """(Detections, labels) per image."""
    seen = tuple(
        ImageDetections(
            index,
            np.array(found, np.float32).reshape(-1, 6),
            np.array(labels, np.float32).reshape(-1, 5),
        )
        for index, (found, labels) in enumerate(images)
    )
    matrix = ConfusionMatrix(len(NAMES))
    for image in seen:
        matrix.add(image.detections, image.labels)
    return Evaluation(detection_metrics(seen), (0.1, 0.2, 0.3), matrix.matrix, seen)


MIXED = evaluation(
    ([[*SMALL, 0.9, 1], [*LARGE, 0.6, 0]], [[1, *SMALL]]),
    ([], [[2, *LARGE]]),
)


def test_classes_that_occur_have_a_row_after_the_mean():
    rows = evaluation_report(MIXED, NAMES, PICTURES)["classes"]
    assert [row["class"] for row in rows] == ["all", "dog", "bird"]
    assert rows[1] == {
        "class": "dog",
        "images": 2,
        "labels": 1,
        "P": 1.0,
        "R": 1.0,
        "mAP50": 0.995,
        "mAP50-95": 0.995,
        "COCO AP": 1.0,
    }
    assert (rows[0]["COCO AP"], rows[2]["COCO AP"]) == (0.5, 0.0)


def test_sizes_coco_confusion_and_worst_pictures_are_told():
    report = evaluation_report(MIXED, NAMES, PICTURES)
    small, medium, large = report["sizes"]
    assert (small["labels"], small["mAP50"], small["COCO AP"], small["R"]) == (1, 0.995, 1.0, 1.0)
    assert (medium["labels"], medium["mAP50"], medium["COCO AR"]) == (0, None, None)
    assert (large["labels"], large["mAP50"], large["COCO AP"], large["R"]) == (1, 0.0, 0.0, 0.0)
    assert report["coco"]["ap_medium"] is None
    assert report["coco"]["ar100"] == 0.5
    assert report["confusion"]["names"] == [*NAMES, "background"]
    assert report["confusion"]["predicted_by_true"][1][1] == 1
    assert np.sum(report["confusion"]["predicted_by_true"]) == 3
    assert report["worst"]["pictures"] == [
        {"image": "val/b.jpg", "missed": 1, "false": 0, "correct": 0, "harm": 1.0},
        {"image": "val/a.jpg", "missed": 0, "false": 1, "correct": 1, "harm": 0.6},
    ]


def test_the_steps_from_ours_to_coco_begin_and_end_with_the_two():
    report = evaluation_report(MIXED, NAMES, PICTURES)
    first, *_, last = report["from_ours_to_coco"]
    assert first["mAP50"] == pytest.approx(report["metrics"]["map50"], abs=5e-5)
    assert (last["mAP50"], last["mAP50-95"]) == (report["coco"]["ap50"], report["coco"]["ap"])


@pytest.mark.parametrize(
    "images",
    [[], [([], [])], [([[*SMALL, 0.9, 0]], [])], [([], [[0, *SMALL]])]],
    ids=["no image", "nothing", "no labels", "no detections"],
)
def test_the_report_is_strict_json_whatever_is_missing(images):
    report = evaluation_report(evaluation(*images), NAMES, PICTURES)
    again = json.loads(json.dumps(report, allow_nan=False))
    assert again == report
    assert all(isinstance(line, str) for line in more_tables(again))


def test_the_tables_line_up_and_show_a_dash_for_nothing():
    report = evaluation_report(MIXED, NAMES, PICTURES)
    lines = [*table_rows(MIXED.metrics, NAMES, 2), *more_tables(report)]
    assert len({len(line) for line in lines}) == 1
    medium = next(line for line in lines if "medium" in line)
    assert medium.split() == ["medium", "0", "-", "-", "-"]
    assert lines[-1].split()[-2:] == ["0.5", "0.5"]
