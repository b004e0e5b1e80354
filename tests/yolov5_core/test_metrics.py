import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolov5_core.metrics import (
    IOU_THRESHOLDS,
    ConfusionMatrix,
    DetectionMetrics,
    average_precision_per_class,
    crowd_cover,
    found_labels,
    match,
    table_rows,
)

NONE_FOUND = np.zeros((0, 6))
NO_LABELS = np.zeros((0, 5))
BOX = (10.0, 10.0, 30.0, 30.0)
HALF = (10.0, 10.0, 20.0, 30.0)  # IoU 0.5 with BOX
FAR = (100.0, 100.0, 120.0, 120.0)


def detection(box: tuple[float, ...], score: float = 0.9, cls: int = 0) -> list[float]:
    return [*box, score, cls]


def label(box: tuple[float, ...], cls: int = 0) -> list[float]:
    return [cls, *box]


def evaluate(*images: tuple[list[list[float]], list[list[float]]]) -> DetectionMetrics:
    """Metrics of (detections, labels) per image."""
    found = [np.reshape(detections, (-1, 6)) for detections, _ in images]
    truth = [np.reshape(labels, (-1, 5)) for _, labels in images]
    correct = np.concatenate([match(f, t) for f, t in zip(found, truth, strict=True)])
    rows = np.concatenate(found)
    return average_precision_per_class(correct, rows[:, 4], rows[:, 5], np.concatenate(truth)[:, 0])


def all_values(metrics: DetectionMetrics) -> np.ndarray:
    curves = (metrics.precision_curve, metrics.recall_curve, metrics.f1_curve, metrics.pr_curve)
    numbers = (metrics.precision, metrics.recall, metrics.f1, metrics.ap, metrics.tp, metrics.fp)
    return np.concatenate([np.ravel(values) for values in (*curves, *numbers)])


# --- match


def test_a_perfect_box_is_correct_at_every_threshold() -> None:
    assert match([detection(BOX)], [label(BOX)]).tolist() == [[True] * 10]


def test_an_iou_of_exactly_the_threshold_is_correct() -> None:
    assert match([detection(HALF)], [label(BOX)]).tolist() == [[True] + [False] * 9]


def test_the_wrong_class_is_not_correct() -> None:
    assert not match([detection(BOX, cls=1)], [label(BOX)]).any()


def test_a_label_is_found_once_by_the_best_score_even_if_another_fits_better() -> None:
    correct = match([detection(HALF, 0.9), detection(BOX, 0.8)], [label(BOX)])
    assert correct[:, 0].tolist() == [True, False]
    assert correct[:, 1].tolist() == [False, True]  # where the first one does not qualify


def test_a_detection_whose_best_label_is_taken_gets_no_other() -> None:
    near = (10.0, 10.0, 31.0, 30.0)
    correct = match([detection(BOX, 0.9), detection(BOX, 0.8)], [label(BOX), label(near)])
    assert correct[:, 0].tolist() == [True, False]


def test_matching_nothing_gives_an_empty_or_false_matrix() -> None:
    assert match(NONE_FOUND, [label(BOX)]).shape == (0, 10)
    assert match([detection(BOX)], NO_LABELS).tolist() == [[False] * 10]
    assert match([], []).shape == (0, 10)


def test_the_label_a_detection_finds_is_told_by_its_row() -> None:
    labels = [label(FAR), label(BOX), label(BOX, 1)]
    detections = [detection(BOX), detection(FAR, 0.8), detection(HALF, 0.7, 1), detection(FAR, 0.6)]
    found = found_labels(detections, labels)
    assert found[:, 0].tolist() == [1, 0, 2, -1]
    assert found[:, 1].tolist() == [1, 0, -1, -1]


def slow_iou(a: np.ndarray, b: np.ndarray) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    inter = width * height
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter + 1e-7)


def slow_match(detections: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Spec E.3 as it is told: pairs, sorted; best per detection; first per label."""
    correct = np.zeros((len(detections), 10), dtype=bool)
    for t, threshold in enumerate(IOU_THRESHOLDS):
        pairs = [
            (slow_iou(d[:4], g[1:]), i, j)
            for i, d in enumerate(detections)
            for j, g in enumerate(labels)
            if d[5] == g[0]
        ]
        pairs = sorted((pair for pair in pairs if pair[0] >= threshold), reverse=True)
        best = {i: j for _, i, j in reversed(pairs)}
        taken = set()
        for i in sorted(best):
            if best[i] not in taken:
                taken.add(best[i])
                correct[i, t] = True
    return correct


def random_image(seed: int, n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Detections scattered about labels, so that many overlap."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 60, (m, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 40, (m, 2))], 1)
    labels = np.concatenate([rng.integers(0, 2, (m, 1)), boxes], 1)
    near = (
        boxes[rng.integers(0, m, n)] if m else rng.uniform(0, 60, (n, 4)) + np.array([0, 0, 60, 60])
    )
    scores = np.sort(rng.random((n, 1)), 0)[::-1]
    detections = [near + rng.normal(0, 3, (n, 4)), scores, rng.integers(0, 2, (n, 1))]
    return np.concatenate(detections, 1).astype(np.float32), labels.astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32), n=st.integers(0, 12), m=st.integers(0, 6))
def test_match_equals_the_obvious_loop(seed: int, n: int, m: int) -> None:
    detections, labels = random_image(seed, n, m)
    np.testing.assert_array_equal(match(detections, labels), slow_match(detections, labels))


# --- crowd regions


def test_cover_is_the_largest_share_in_one_region_of_the_class() -> None:
    left, top = (10.0, 10.0, 15.0, 90.0), (0.0, 0.0, 90.0, 20.0)
    crowd = [label(left), label(top), label(BOX, 1)]
    detections = [detection(BOX), detection(BOX, cls=1), detection(BOX, cls=2), detection(FAR)]
    assert crowd_cover(detections, crowd).tolist() == pytest.approx([0.5, 1, 0, 0])
    assert crowd_cover(detections, NO_LABELS).tolist() == [0, 0, 0, 0]
    assert crowd_cover([], crowd).shape == (0,)


def test_a_detection_without_area_lies_in_no_crowd() -> None:
    assert crowd_cover([detection((10.0, 10.0, 10.0, 30.0))], [label(BOX)]).tolist() == [0]


def test_false_detections_in_a_crowd_count_neither_for_nor_against() -> None:
    found, truth = [detection(FAR), detection(BOX, 0.8)], [label(BOX)]
    correct = match(found, truth)
    rows = np.array(found)
    ignored = np.repeat([[True], [False]], 10, axis=1)
    metrics = average_precision_per_class(correct, rows[:, 4], rows[:, 5], [0], ignored)
    alone = evaluate(([found[1]], truth))
    assert (metrics.map50, metrics.map50_95) == (alone.map50, alone.map50_95)
    assert metrics.precision.tolist() == [1]


def test_ignoring_at_one_threshold_leaves_the_others_as_they_are() -> None:
    found, truth = [detection(FAR), detection(BOX, 0.8)], [label(BOX)]
    rows, ignored = np.array(found), np.zeros((2, 10), dtype=bool)
    ignored[0, 3] = True
    metrics = average_precision_per_class(match(found, truth), rows[:, 4], rows[:, 5], [0], ignored)
    expected = evaluate((found, truth)).ap[0]
    assert metrics.ap[0, 3] == pytest.approx(0.995)
    assert np.delete(metrics.ap[0], 3).tolist() == np.delete(expected, 3).tolist()


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32), n=st.integers(0, 12), m=st.integers(0, 6))
def test_ignoring_nothing_changes_no_bit(seed: int, n: int, m: int) -> None:
    detections, labels = random_image(seed, n, m)
    arguments = (match(detections, labels), detections[:, 4], detections[:, 5], labels[:, 0])
    plain = average_precision_per_class(*arguments)
    ignoring = average_precision_per_class(*arguments, np.zeros((n, 10), dtype=bool))
    np.testing.assert_array_equal(all_values(plain), all_values(ignoring))


# --- average precision


def test_perfect_detections_score_one() -> None:
    image = ([detection(BOX), detection(FAR, 0.8, 1)], [label(BOX), label(FAR, 1)])
    metrics = evaluate(image, image)
    assert metrics.classes.tolist() == [0, 1]
    assert metrics.labels_per_class.tolist() == [2, 2]
    assert metrics.precision.tolist() == metrics.recall.tolist() == [1, 1]
    assert metrics.map50 == pytest.approx(0.995)  # the end point (1, 0) cuts the last corner
    assert metrics.fitness == pytest.approx(0.995)
    assert metrics.tp.tolist() == [2, 2]
    assert metrics.fp.tolist() == [0, 0]


def test_hopeless_detections_score_zero() -> None:
    metrics = evaluate(([detection(FAR), detection(BOX, cls=1)], [label(BOX), label(BOX, 2)]))
    assert metrics.classes.tolist() == [0, 2]
    assert not all_values(metrics).any()
    assert metrics.fitness == 0


def test_mixed_detections_score_as_computed_by_hand() -> None:
    # One class, two labels; by score: a hit, a miss, a hit.
    metrics = evaluate(
        ([detection(BOX, 0.9), detection(FAR, 0.8)], [label(BOX)]),
        ([detection(BOX, 0.7)], [label(BOX)]),
    )
    # Recall 0.5, 0.5, 1 at precision 1, 1/2, 2/3: the envelope is 1 below recall 0.5, from there
    # 2/3, and 0 at 1. Trapezoids of 0.01: 49 whole, one from 1 to 2/3, 49 of 2/3, one to 0.
    assert metrics.ap50[0] == pytest.approx(0.49 + 0.01 * 5 / 6 + 0.49 * 2 / 3 + 0.01 / 3)
    # The mean F1 is largest, 0.8, below confidence 0.7, where all three count.
    assert metrics.precision[0] == pytest.approx(2 / 3)
    assert metrics.recall[0] == pytest.approx(1)
    assert metrics.f1[0] == pytest.approx(0.8)
    assert (metrics.tp[0], metrics.fp[0]) == (2, 1)


def test_the_best_confidence_is_where_precision_and_recall_are_taken() -> None:
    metrics = evaluate(
        ([detection(BOX, 0.9), detection(FAR, 0.8)], [label(BOX)]),
        ([detection(BOX, 0.7)], [label(BOX)]),
    )
    at = np.flatnonzero(metrics.confidence == metrics.best_confidence)
    assert metrics.f1_curve[:, at].ravel().tolist() == metrics.f1.tolist()
    assert 0 <= metrics.best_confidence < 0.7
    assert evaluate(([], [])).best_confidence == 0


def test_false_positives_on_an_image_without_labels_lower_precision() -> None:
    hit = ([detection(BOX, 0.8)], [label(BOX)])
    assert evaluate(hit, ([detection(BOX, 0.9)], [])).precision[0] == pytest.approx(0.5)


def test_a_class_never_predicted_has_zeros_and_counts_in_the_means() -> None:
    metrics = evaluate(([detection(BOX)], [label(BOX), label(FAR, 3)]))
    assert metrics.ap50.tolist() == [pytest.approx(0.995), 0]
    assert metrics.mean_recall == 0.5


def test_classes_never_seen_get_the_mean() -> None:
    metrics = evaluate(([detection(BOX, cls=1)], [label(BOX, 1), label(FAR, 3)]))
    assert metrics.maps(4) == pytest.approx([0.995 / 2, 0.995, 0.995 / 2, 0])


def test_the_order_of_images_does_not_matter() -> None:
    images = [
        ([detection(BOX, 0.9), detection(FAR, 0.3)], [label(BOX)]),
        ([detection(BOX, 0.5)], [label(FAR)]),
        ([detection(FAR, 0.7)], [label(FAR), label(BOX)]),
    ]
    np.testing.assert_array_equal(
        all_values(evaluate(*images)), all_values(evaluate(*reversed(images)))
    )


@pytest.mark.parametrize(
    "image",
    [([], []), ([detection(BOX)], []), ([], [label(BOX)])],
    ids=["nothing at all", "no labels", "no detections"],
)
def test_metrics_without_detections_or_labels_are_zero(
    image: tuple[list[list[float]], list[list[float]]],
) -> None:
    metrics = evaluate(image)
    assert not all_values(metrics).any()
    means = (metrics.mean_precision, metrics.mean_recall, metrics.map50, metrics.map50_95)
    assert means == (0, 0, 0, 0)
    assert metrics.maps(2).tolist() == [0, 0]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32), n=st.integers(0, 12), m=st.integers(0, 6))
def test_every_metric_is_within_its_range(seed: int, n: int, m: int) -> None:
    detections, labels = random_image(seed, n, m)
    metrics = evaluate((detections.tolist(), labels.tolist()))
    ratios = (metrics.precision, metrics.recall, metrics.f1, metrics.ap, metrics.pr_curve)
    for values in ratios:
        assert ((values >= 0) & (values <= 1)).all()  # false for NaN
    assert np.isfinite(all_values(metrics)).all()
    assert (np.diff(metrics.pr_curve) <= 0).all()


# --- confusion matrix


def confusion(*images: tuple[list[list[float]], list[list[float]]]) -> list[list[float]]:
    matrix = ConfusionMatrix(2)
    for detections, labels in images:
        matrix.add(detections, labels)
    return matrix.matrix.tolist()


def test_a_match_counts_at_predicted_row_and_true_column() -> None:
    image = ([detection(BOX, cls=1)], [label(BOX, 0)])
    assert confusion(image, image) == [[0, 0, 0], [2, 0, 0], [0, 0, 0]]


def test_a_missed_label_counts_as_background() -> None:
    weak = detection(BOX, 0.25)  # not above 0.25
    for found in ([], [weak], [detection(FAR, 0.1)]):
        assert confusion((found, [label(BOX, 1)])) == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_false_detections_count_even_if_nothing_on_the_image_matches() -> None:
    assert confusion(([detection(BOX)], [])) == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert confusion(([detection(BOX)], [label(FAR)])) == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]


def test_a_label_goes_to_the_detection_that_fits_best() -> None:
    image = ([detection(HALF, 0.9, 1), detection(BOX, 0.3, 0)], [label(BOX)])
    assert confusion(image) == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_false_detections_in_a_crowd_count_nowhere() -> None:
    matrix = ConfusionMatrix(2)
    detections = [detection(BOX), detection(FAR, 0.8), detection(FAR, 0.7, 1)]
    matrix.add(detections, [label(BOX)], [label((0.0, 0.0, 200.0, 200.0))])
    assert matrix.matrix.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]  # class 1 has no crowd


def test_an_empty_image_counts_nothing() -> None:
    assert confusion(([], [])) == [[0, 0, 0]] * 3


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32), n=st.integers(0, 12), m=st.integers(0, 6))
def test_every_label_and_every_confident_detection_counts_once(seed: int, n: int, m: int) -> None:
    detections, labels = random_image(seed, n, m)
    matrix = np.array(confusion((detections.tolist(), labels.tolist())))
    confident = detections[detections[:, 4] > 0.25]
    for cls in (0, 1):
        assert matrix[:, cls].sum() == (labels[:, 0] == cls).sum()
        assert matrix[cls].sum() == (confident[:, 5] == cls).sum()


# --- table


def test_the_table_has_a_header_the_mean_and_a_row_per_class() -> None:
    metrics = evaluate(([detection(BOX, cls=1)], [label(BOX, 1), label(FAR, 2)]))
    assert table_rows(metrics, ["cat", "dog", "a bird"], images=12) == [
        "                 Class     Images  Instances          P          R      mAP50   mAP50-95",
        "                   all         12          2        0.5        0.5      0.497      0.497",
        "                   dog         12          1          1          1      0.995      0.995",
        "                a bird         12          1          0          0          0          0",
    ]
