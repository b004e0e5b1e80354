import json
from pathlib import Path

import numpy as np
import pytest

from yolov5_core.evaluation import ImageDetections
from yolov5_core.predictions import category_ids, image_ids, save_predictions, yolo_rows


def test_an_image_is_named_by_its_stem_as_a_number_where_it_is_one():
    names = ["val/000123.jpg", "val/cat.07.png", "0.jpg", "val/१२.jpg", "val/-5.jpg"]
    assert image_ids(names) == [123, "cat.07", 0, "१२", "-5"]


def test_images_of_the_same_stem_are_named_by_their_whole_names():
    names = ["a/1.jpg", "b/1.jpg", "b/2.jpg", "c/002.png"]
    assert image_ids(names) == names
    assert image_ids(["a/1.jpg", "b/3.jpg"]) == [1, 3]


def test_classes_are_their_own_categories_but_those_of_coco():
    assert category_ids(["cat", "dog"]) == (0, 1)
    coco = category_ids(["person", *map(str, range(78)), "toothbrush"])
    assert len(coco) == len(set(coco)) == 80
    assert set(range(1, 91)) - set(coco) == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert coco == tuple(sorted(coco))
    assert category_ids([str(i) for i in range(80)]) == tuple(range(80))


def detections(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 6)


def test_every_detection_is_written_with_rounded_box_and_score(tmp_path: Path):
    images = [
        ImageDetections(1, detections([1, 2, 4.12345, 7, 0.987654321, 1]), np.zeros((0, 5))),
        ImageDetections(0, detections(), np.zeros((0, 5))),
        ImageDetections(2, detections([0, 0, 1, 1, 0.5, 0], [0, 0, 2, 2, 0.25, 0]), np.zeros(0)),
    ]
    path = save_predictions(images, ["x", 7, "ü"], (0, 17), tmp_path / "deep" / "predictions.json")
    assert json.loads(path.read_text("utf-8")) == [
        {"image_id": 7, "category_id": 17, "bbox": [1.0, 2.0, 3.123, 5.0], "score": 0.98765},
        {"image_id": "ü", "category_id": 0, "bbox": [0.0, 0.0, 1.0, 1.0], "score": 0.5},
        {"image_id": "ü", "category_id": 0, "bbox": [0.0, 0.0, 2.0, 2.0], "score": 0.25},
    ]
    assert len(path.read_text("utf-8").splitlines()) == 5


@pytest.mark.parametrize("images", [[], [ImageDetections(0, detections(), np.zeros((0, 5)))]])
def test_no_detections_are_an_empty_list(tmp_path: Path, images: list[ImageDetections]):
    path = save_predictions(images, ["x"], (0,), tmp_path / "predictions.json")
    assert json.loads(path.read_text("utf-8")) == []


def test_a_label_file_has_fractions_of_the_picture_and_the_score_behind_if_asked():
    found = detections([10, 20, 30, 60, 0.87654321, 2], [0, 0, 200, 100, 0.5, 0])
    assert yolo_rows(found, (100, 200), with_scores=False) == "2 0.1 0.4 0.1 0.4\n0 0.5 0.5 1 1\n"
    scored = yolo_rows(found, (100, 200), with_scores=True).splitlines()
    assert scored == ["2 0.1 0.4 0.1 0.4 0.876543", "0 0.5 0.5 1 1 0.5"]
    assert yolo_rows(detections(), (100, 200), with_scores=True) == ""
