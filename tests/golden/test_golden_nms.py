import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.golden_data import golden_files
from yolov5_core.nms import NmsConfig, non_max_suppression

SETTINGS = {
    "conf_thres": "confidence",
    "iou_thres": "iou",
    "multi_label": "multi_label",
    "agnostic": "agnostic",
    "classes": "classes",
    "max_det": "max_detections",
    "max_nms": "max_candidates",
}


def runs() -> list[tuple[Path, str]]:
    return [
        (path, run)
        for path in golden_files("nms_*.npz")
        for run in json.loads(str(np.load(path)["meta"]))
    ]


def in_any_order(rows: np.ndarray) -> np.ndarray:
    """Equal scores may come in any order: rows sorted by score, then by everything else."""
    return rows[np.lexsort([*rows[:, [3, 2, 1, 0, 5]].T, -rows[:, 4]])]


@pytest.mark.parametrize(("path", "run"), runs())
def test_golden_suppression_keeps_the_same_boxes(path: Path, run: str) -> None:
    file = np.load(path)
    meta = json.loads(str(file["meta"]))[run]
    settings = {SETTINGS[key]: value for key, value in meta.items() if key in SETTINGS}
    if "classes" in settings:
        settings["classes"] = tuple(settings["classes"])
    predictions = torch.from_numpy(file[f"pred_{meta['pred']}"])
    labels = None
    if meta.get("labels"):
        labels = [
            torch.from_numpy(file[key]) if key in file else torch.zeros(0, 5)
            for key in (f"{meta['labels']}_labels_image{i}" for i in range(len(predictions)))
        ]

    kept = non_max_suppression(predictions, NmsConfig(**settings), labels)

    expected = [file[f"{run}_{i}"] for i in range(len(predictions)) if f"{run}_{i}" in file]
    assert len(expected) == len(meta["counts"])
    for ours, golden, count in zip(kept, expected, meta["counts"], strict=True):
        assert len(ours) == len(golden) == count
        assert (ours[:-1, 4] >= ours[1:, 4]).all()
        np.testing.assert_array_equal(in_any_order(ours.numpy()), in_any_order(golden))
