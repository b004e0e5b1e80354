import json
from typing import Any

import numpy as np
import pytest

from tests.golden_data import golden_files
from yolov5_core.anchors import (
    anchor_fitness,
    anchor_quality,
    class_weights,
    image_weights,
    kmeans_anchors,
    label_sizes,
)

FILES = [json.loads(path.read_text()) for path in golden_files("autoanchor*.json")]
CASES = [case for file in FILES for case in file.get("cases", [])]
WEIGHTS = [case for file in FILES if (case := file.get("class_weights"))]


def labels_of(case: dict[str, Any]) -> list[np.ndarray]:
    return [np.array(rows, np.float32).reshape(-1, 5) for rows in case["labels"]]


def sizes_of(case: dict[str, Any]) -> np.ndarray:
    return label_sizes(case["image_wh"], labels_of(case), case["imgsz"])


@pytest.mark.parametrize("case", CASES)
def test_golden_anchor_quality_is_the_same(case: dict[str, Any]) -> None:
    sizes = sizes_of(case)
    quality = anchor_quality(sizes, np.array(case["anchors_pixels"]), case["thr"])
    assert quality.bpr == pytest.approx(case["bpr"], abs=1e-6)
    assert quality.anchors_per_target == pytest.approx(case["anchors_above_threshold"], abs=1e-6)
    assert len(sizes) == case["n_wh"]


@pytest.mark.parametrize("case", CASES)
def test_golden_fitness_of_sample_anchors_is_the_same(case: dict[str, Any]) -> None:
    for sample in case.get("fitness_samples", []):
        fitness = anchor_fitness(sizes_of(case), np.array(sample["anchors"]), case["thr"])
        assert fitness == pytest.approx(sample["fitness"], abs=1e-6)


@pytest.mark.parametrize("case", [case for case in CASES if "evolved" in case])
def test_golden_new_anchors_fit_as_well_as_the_public_ones(case: dict[str, Any]) -> None:
    sizes, public = sizes_of(case), case["evolved"]
    ours = kmeans_anchors(
        sizes, len(public["anchors"]), case["imgsz"], case["thr"], rng=np.random.default_rng(0)
    )
    assert anchor_fitness(sizes, ours, case["thr"]) >= 0.97 * public["best_fitness"]


@pytest.mark.parametrize("case", WEIGHTS)
def test_golden_class_and_image_weights_are_the_same(case: dict[str, Any]) -> None:
    labels = labels_of(case)
    weights = class_weights(labels, case["nc"])
    np.testing.assert_allclose(weights, case["weights"], atol=1e-7)
    used = weights * (1 - np.array(case["maps"])) ** 2
    np.testing.assert_allclose(used, case["class_weights_used"], atol=1e-7)
    np.testing.assert_allclose(image_weights(labels, used), case["image_weights"], atol=1e-7)
