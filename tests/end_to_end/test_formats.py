"""The whole flow on data sets that are not YOLO's."""

import json
from pathlib import Path

import pytest

from flows.cli import main
from tests.data_sets import WRITERS
from tests.end_to_end.conftest import snapshot, tiny_arguments


@pytest.mark.parametrize("layout", ["COCO", "VOC"])
def test_a_folder_of_another_format_is_trained_and_evaluated(tmp_path: Path, layout: str):
    folder = WRITERS[layout](tmp_path / "set")
    before = snapshot(folder)
    more = ("--run", "r", "--test-time-augmentation", "--optimizer", "adamw")
    assert main(tiny_arguments(folder, tmp_path, *more)) == 0
    assert snapshot(folder) == before
    run = tmp_path / "store/runs/r"
    result = json.loads((run / "evaluation/evaluation.json").read_text())
    assert [row["class"] for row in result["classes"]] == ["all", "cat", "dog"]
    found = json.loads((run / "evaluation/predictions.json").read_text())
    assert {row["image_id"] for row in found} <= {3, 4}
    ids = {17, 18} if layout == "COCO" else {0, 1}  # those of the user's own file
    assert {row["category_id"] for row in found} <= ids
    assert (run / "plots/worst.jpg").is_file()
    assert (run / "data/report.html").is_file()
