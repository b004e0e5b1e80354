"""COCO's metrics worked by hand, and why ours differ from them."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolov5_core.boxes import pairwise_iou
from yolov5_core.coco_metrics import (
    MAX_DETECTIONS,
    CocoMetrics,
    RuleStep,
    coco_metrics,
    from_ours_to_coco,
    step_average_precision,
    strongest,
)
from yolov5_core.evaluation import Evaluation, ImageDetections, detection_metrics, match_images
from yolov5_core.metrics import IOU_THRESHOLDS, crowd_cover

BOX = (10.0, 10.0, 30.0, 30.0)
NEAR = (14.0, 10.0, 34.0, 30.0)  # IoU 2/3 with BOX
FAR = (100.0, 100.0, 120.0, 120.0)
BCCD = Path(__file__).parents[1] / "data" / "bccd_detections.npz"

Rows = Sequence[Sequence[float]]


def image(detections: Rows, labels: Rows, crowd: Rows = ()) -> ImageDetections:
    return ImageDetections(
        0,
        np.array(detections, np.float32).reshape(-1, 6),
        np.array(labels, np.float32).reshape(-1, 5),
        np.array(crowd, np.float32).reshape(-1, 5),
    )


def evaluation(images: Sequence[ImageDetections]) -> Evaluation:
    return Evaluation(detection_metrics(images), (0.0, 0.0, 0.0), np.zeros((4, 4)), tuple(images))


def by_rule(images: Sequence[ImageDetections], num_classes: int) -> tuple[RuleStep, ...]:
    return from_ours_to_coco(evaluation(images), coco_metrics(images, num_classes))


# --- the figures


def test_perfect_detections_score_one():
    m = coco_metrics([image([[*BOX, 0.9, 0]], [[0, *BOX]])], 1)
    assert (m.ap, m.ap50, m.ap75, m.ap_small) == pytest.approx((1, 1, 1, 1))
    assert (m.ar1, m.ar10, m.ar100, m.ar_small) == pytest.approx((1, 1, 1, 1))


def test_hopeless_detections_score_zero():
    m = coco_metrics([image([[*FAR, 0.9, 0], [*BOX, 0.8, 1]], [[0, *BOX]])], 2)
    assert (m.ap, m.ap50, m.ar100) == (0, 0, 0)


def test_mixed_detections_score_as_computed_by_hand():
    # Two labels; by score: a hit, a miss, a hit. Recall 1/2 at precision 1, recall 1 at 2/3: of the
    # 101 recalls 0 to 0.5, 51 of them, have precision 1, the other 50 have 2/3.
    images = [
        image([[*BOX, 0.9, 0], [*FAR, 0.8, 0]], [[0, *BOX]]),
        image([[*BOX, 0.7, 0]], [[0, *BOX]]),
    ]
    expected = (51 + 50 * 2 / 3) / 101
    m = coco_metrics(images, 1)
    assert (m.ap, m.ap50, m.ap75) == pytest.approx((expected, expected, expected))
    assert step_average_precision(match_images(images)) == pytest.approx(np.full((1, 10), expected))


def test_recall_of_the_best_detections_counts_one_ten_or_a_hundred():
    labels = [[0, x, 10.0, x + 8, 18.0] for x in range(0, 200, 10)]
    detections = [[*row[1:], 0.9 - 0.001 * i, 0] for i, row in enumerate(labels)]
    m = coco_metrics([image(detections, labels)], 1)
    assert (m.ar1, m.ar10, m.ar100) == pytest.approx((1 / 20, 10 / 20, 1))


def test_an_iou_threshold_is_reached_by_boxes_that_fit_so_well():
    m = coco_metrics([image([[*NEAR, 0.9, 0]], [[0, *BOX]])], 1)
    assert (m.ap50, m.ap75) == pytest.approx((1, 0))
    assert m.ap == pytest.approx(4 / 10)  # 0.5, 0.55, 0.6, 0.65


def test_sizes_are_areas_of_boxes():
    small, medium, large = (0, 0, 31, 31), (100, 100, 150, 150), (200, 200, 300, 300)
    labels = [[0, *small], [0, *medium], [0, *large]]
    m = coco_metrics([image([[*small, 0.9, 0], [*large, 0.8, 0]], labels)], 1)
    assert (m.ap_small, m.ap_medium, m.ap_large) == pytest.approx((1, 0, 1))
    assert (m.ar_small, m.ar_medium, m.ar_large) == pytest.approx((1, 0, 1))


def test_a_class_without_labels_is_not_a_number_and_counts_nowhere():
    m = coco_metrics([image([[*BOX, 0.9, 1], [*FAR, 0.8, 2]], [[1, *BOX]])], 4)
    assert m.per_class == pytest.approx([math.nan, 1, math.nan, math.nan], nan_ok=True)
    assert m.ap == pytest.approx(1)
    assert math.isnan(m.ap_large)


@pytest.mark.parametrize(
    "images", [[], [image([], [])], [image([[*BOX, 0.9, 0]], [])]], ids=["none", "empty", "found"]
)
def test_without_labels_nothing_is_a_number(images: list[ImageDetections]):
    m = coco_metrics(images, 2)
    assert all(math.isnan(value) for value in m.figures().values())
    assert len(m.figures()) == 12
    assert np.isnan(m.per_class).tolist() == [True, True]
    ours, *others = by_rule(images, 2)
    assert math.isnan(ours.map50)
    assert all(math.isnan(step.map50_95) for step in others)


def test_without_detections_labels_are_missed():
    m = coco_metrics([image([], [[0, *BOX]])], 1)
    assert (m.ap, m.ar100) == (0, 0)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]):
    coco_metrics([image([[*BOX, 0.9, 0]], [[0, *BOX]])], 1)
    assert capfd.readouterr() == ("", "")


def test_the_images_are_not_changed():
    seen = image([[*BOX, 0.9, 0]], [[0, *BOX]], [[0, *FAR]])
    before = [array.copy() for array in (seen.detections, seen.labels, seen.crowd)]
    by_rule([seen], 1)
    for old, new in zip(before, (seen.detections, seen.labels, seen.crowd), strict=True):
        assert np.array_equal(old, new)


# --- crowd regions


def test_what_lies_in_a_crowd_counts_neither_for_nor_against():
    labels = [[0, *BOX]]
    detections = [[*FAR, 0.9, 0], [*BOX, 0.8, 0]]
    crowd = [[0, 90.0, 90.0, 200.0, 200.0]]
    counted = coco_metrics([image(detections, labels)], 1)
    ignored = coco_metrics([image(detections, labels, crowd)], 1)
    of_another_class = coco_metrics([image(detections, labels, [[1, *crowd[0][1:]]])], 2)
    assert (counted.ap50, ignored.ap50) == pytest.approx((0.5, 1))
    assert of_another_class.ap50 == pytest.approx(0.5)
    assert step_average_precision(match_images([image(detections, labels, crowd)])) == (
        pytest.approx(np.ones((1, 10)))
    )


# --- why the two differ


def test_a_second_detection_gets_the_next_label_from_coco_but_not_from_us():
    # Both detections overlap the first label most; the second label still fits the second one.
    seen = image([[*BOX, 0.9, 0], [*BOX, 0.8, 0]], [[0, *BOX], [0, *NEAR]])
    _, _, limited, coco = by_rule([seen], 1)
    assert limited.map50 == pytest.approx(51 / 101)  # half of the labels, at precision 1
    assert coco.map50 == pytest.approx(1)


def test_coco_looks_at_a_hundred_detections_of_a_class_and_picture():
    labels = [[0, x, 10.0, x + 8, 18.0] for x in range(0, 1010, 10)]  # 101
    detections = [[*row[1:], 0.9 - 0.001 * i, 0] for i, row in enumerate(labels)]
    other = [*FAR, 0.001, 1]
    seen = image([*detections, other], [*labels, [1, *FAR]])
    kept = strongest(seen).detections
    assert kept[:, 5].tolist() == [0] * MAX_DETECTIONS + [1]
    assert kept[:, 4].min() == pytest.approx(0.001)
    _, all_of_them, limited, coco = by_rule([seen], 2)
    assert all_of_them.map50 == pytest.approx(1)
    assert limited.map50 == coco.map50 == pytest.approx((100 / 101 + 1) / 2, abs=1e-9)


def test_our_curve_gives_the_last_corner_away():
    ours, coco_curve, *_ = by_rule([image([[*BOX, 0.9, 0]], [[0, *BOX]])], 1)
    assert (ours.map50, coco_curve.map50) == pytest.approx((0.995, 1))


def disjoint_scene(rng: np.random.Generator) -> ImageDetections:
    """Labels in cells of their own; a detection then overlaps one of them by half, at most.

    (IoU 0.5 with a label needs half of the detection inside it, and halves of a box do not overlap
    either.) So there is no choice of labels, and the rules of matching agree.
    """
    cells = np.stack(np.meshgrid(np.arange(4), np.arange(3)), -1).reshape(-1, 2) * 100.0
    corners = cells + rng.uniform(0, 10, cells.shape)
    boxes = np.concatenate([corners, corners + rng.uniform(20, 90, cells.shape)], 1)
    boxes = boxes[: rng.integers(0, 13)]
    labels = np.concatenate([rng.integers(0, 3, (len(boxes), 1)), boxes], 1)
    chosen = labels[rng.integers(0, len(labels), rng.integers(0, 40))] if len(labels) else labels
    near = chosen[:, 1:] + rng.normal(0, 3, (len(chosen), 4)).clip(-9, 9)  # still a box
    near = np.concatenate([near, rng.uniform(0, 150, (5, 4)) + np.array([0, 0, 200, 200])])
    same = rng.random(len(chosen)) < 0.8
    classes = np.where(same, chosen[:, 0], rng.integers(0, 3, len(chosen)))
    classes = np.append(classes, rng.integers(0, 3, 5))
    best_first = np.sort(rng.random(len(near)))[::-1]
    detections = rng.permutation(np.column_stack([near, classes]))
    detections = np.column_stack([detections[:, :4], best_first, detections[:, 4]])
    corners = rng.uniform(0, 100, (2, 2))
    crowd = np.column_stack(
        [rng.integers(0, 3, 2), corners, corners + rng.uniform(50, 250, (2, 2))]
    )
    return image(detections.tolist(), labels.tolist(), crowd[: rng.integers(0, 3)].tolist())


def is_clear_cut(seen: ImageDetections) -> bool:
    """No overlap so near to a threshold that float32 and float64 may disagree."""
    shares = [
        pairwise_iou(seen.labels[:, 1:], seen.detections[:, :4]).ravel(),
        crowd_cover(seen.detections, seen.crowd),
    ]
    gaps = np.abs(np.concatenate(shares)[:, None] - IOU_THRESHOLDS)
    return bool((gaps > 1e-5).all())


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32))
def test_our_matches_under_cocos_rule_are_cocos_where_labels_do_not_overlap(seed: int):
    rng = np.random.default_rng(seed)
    images = [disjoint_scene(rng) for _ in range(3)]
    assume(all(is_clear_cut(seen) for seen in images))
    matches = match_images(images)
    coco = coco_metrics(images, 3)
    classes = np.unique(matches.labels[:, 0].astype(int))
    ours = step_average_precision(matches)
    assert ours.mean(1) == pytest.approx(coco.per_class[classes], abs=1e-9)
    assert np.isnan(np.delete(coco.per_class, classes)).all()
    if len(classes):
        assert ours[:, 0].mean() == pytest.approx(coco.ap50, abs=1e-9)
        assert ours[:, 5].mean() == pytest.approx(coco.ap75, abs=1e-9)


def official(images: Sequence[ImageDetections], num_classes: int) -> list[float]:
    """The twelve figures as the manual of pycocotools computes them, all classes at once."""
    truth = COCO()
    labels = [
        {
            "image_id": i,
            "category_id": int(cls),
            "iscrowd": iscrowd,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
        }
        for i, seen in enumerate(images)
        for iscrowd, rows in enumerate((seen.labels, seen.crowd))
        for cls, x1, y1, x2, y2 in rows.tolist()
    ]
    truth.dataset = {
        "info": {},
        "images": [{"id": i} for i in range(len(images))],
        "categories": [{"id": cls} for cls in range(num_classes)],
        "annotations": [
            {**row, "id": i, "area": row["bbox"][2] * row["bbox"][3]}
            for i, row in enumerate(labels, 1)
        ],
    }
    truth.createIndex()
    found = truth.loadRes(
        [
            {
                "image_id": i,
                "category_id": int(cls),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
            for i, seen in enumerate(images)
            for x1, y1, x2, y2, score, cls in seen.detections.tolist()
        ]
    )
    evaluator = COCOeval(truth, found, "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return list(evaluator.stats)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32))
def test_the_figures_are_those_of_pycocotools_own_summary(seed: int):
    rng = np.random.default_rng(seed)
    images = [disjoint_scene(rng) for _ in range(4)]
    figures = [-1 if math.isnan(v) else v for v in coco_metrics(images, 4).figures().values()]
    assert figures == pytest.approx(official(images, 4), abs=1e-12)


# --- on detections of a trained model


@pytest.fixture(scope="module")
def bccd() -> tuple[ImageDetections, ...]:
    """What a model found on the 72 validation pictures of BCCD, 3 classes.

    Variant n, 50 epochs at 320 pixels, seed 0; see benchmarks/real_data.py.
    """
    with np.load(BCCD, allow_pickle=False) as file:
        rows = np.column_stack([file["boxes_64ths"] / 64, file["scores"], file["classes"]])
        detections = np.split(rows.astype(np.float32), np.cumsum(file["detection_counts"])[:-1])
        labels = np.split(file["labels"], np.cumsum(file["label_counts"])[:-1])
    return tuple(
        ImageDetections(index, found, truth)
        for index, (found, truth) in enumerate(zip(detections, labels, strict=True))
    )


@pytest.fixture(scope="module")
def bccd_coco(bccd: tuple[ImageDetections, ...]) -> CocoMetrics:
    return coco_metrics(bccd, 3)


def test_on_bccd_the_model_is_good_enough_to_compare(bccd, bccd_coco):
    assert [len(seen.detections) for seen in bccd] == [300] * 72
    assert sum(len(seen.labels) for seen in bccd) == 945
    ours = detection_metrics(bccd)
    assert (ours.map50, ours.map50_95) == pytest.approx((0.7907, 0.4590), abs=5e-5)
    assert (bccd_coco.ap50, bccd_coco.ap) == pytest.approx((0.7913, 0.4571), abs=5e-5)


def test_on_bccd_the_curve_explains_nearly_all_of_the_difference(bccd, bccd_coco):
    ours, curve, limited, coco = from_ours_to_coco(evaluation(bccd), bccd_coco)
    assert abs(ours.map50_95 - coco.map50_95) < 0.003
    assert abs(ours.map50 - coco.map50) < 0.003
    assert abs(curve.map50_95 - ours.map50_95) < 0.003  # half a point of 101, at most, for each end
    assert abs(limited.map50_95 - curve.map50_95) < 0.0005  # the weakest detections of 300
    assert abs(coco.map50_95 - limited.map50_95) < 0.0005  # only where cells overlap


def test_on_bccd_our_matches_under_cocos_rules_are_cocos_within_a_thousandth(bccd, bccd_coco):
    ap = step_average_precision(match_images([strongest(seen) for seen in bccd]))
    assert ap.mean() == pytest.approx(bccd_coco.ap, abs=0.0005)
    assert ap[:, 0].mean() == pytest.approx(bccd_coco.ap50, abs=0.0005)
    assert ap[:, 5].mean() == pytest.approx(bccd_coco.ap75, abs=0.0005)
    assert ap.mean(1) == pytest.approx(bccd_coco.per_class, abs=0.001)
