"""All pictures at once against one pair, one threshold and one class at a time."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolov5_core import matching
from yolov5_core.boxes import pairwise_iou
from yolov5_core.evaluation import ImageDetections, detection_metrics, match_images, stacked
from yolov5_core.matching import pairs, stack
from yolov5_core.metrics import CURVE, IOU_THRESHOLDS, ConfusionMatrix, crowd_cover

BOX = (10.0, 10.0, 30.0, 30.0)


def scene(seed: int, pictures: int, crowded: bool) -> list[ImageDetections]:
    """Boxes on a coarse grid, so that equal overlaps and equal scores are common."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(pictures):
        labels, crowd = (
            np.column_stack([rng.integers(0, 3, n), *some_boxes(rng, n).T])
            for n in (rng.integers(0, 7), rng.integers(0, 3) * crowded)
        )
        n = rng.integers(0, 15)
        scores = np.sort(rng.integers(1, 9, n) / 8)[::-1]
        detections = np.column_stack([some_boxes(rng, n), scores, rng.integers(0, 3, n)])
        arrays = (rows.astype(np.float32) for rows in (detections, labels, crowd))
        found.append(ImageDetections(index, *arrays))
    return found


def some_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corners = rng.integers(0, 4, (count, 2)) * 4
    return np.concatenate([corners, corners + rng.integers(2, 5, (count, 2)) * 4], 1)


def slow_claims(image: ImageDetections, threshold: np.float32) -> list[int]:
    """The label of each detection: the best of its class, if nobody before had it."""
    labels: list[int] = []
    for box in image.detections:
        ious = pairwise_iou(image.labels[:, 1:], box[None, :4])[:, 0]
        ious[image.labels[:, 0] != box[5]] = 0
        best = int(ious.argmax()) if len(ious) else -1
        free = best >= 0 and ious[best] >= threshold and best not in labels
        labels.append(best if free else -1)
    return labels


def slow_average_precision(
    correct: np.ndarray, counted: np.ndarray, count: int
) -> tuple[float, np.ndarray]:
    """AP and the precision over CURVE, by the envelope over every single detection."""
    points = [(0.0, 1.0)]
    found, shown = 0, 0
    for hit, counts in zip(correct, counted, strict=True):
        found, shown = found + int(hit), shown + int(counts)
        points.append((found / count, found / shown if shown else 1.0))
    points.append((1.0, 0.0))
    recall = [r for r, _ in points]
    envelope = [max(p for _, p in points[i:]) for i in range(len(points))]
    grid = np.linspace(0, 1, 101)
    heights = np.interp(grid, recall, envelope)
    area = sum((a + b) / 200 for a, b in pairwise(heights))
    return float(area), np.interp(CURVE, recall, envelope)


def slow_confusion(images: list[ImageDetections]) -> np.ndarray:
    """The best fitting pair first, each detection with the label it overlaps most only."""
    matrix = np.zeros((4, 4))
    for image in images:
        found = image.detections[image.detections[:, 4] > 0.25]
        iou = pairwise_iou(image.labels[:, 1:], found[:, :4])
        fits = sorted(
            (-float(iou[:, i].max()), i, int(iou[:, i].argmax()))
            for i in range(len(found))
            if len(image.labels)
        )
        taken: dict[int, int] = {}
        for fit, i, label in fits:
            if -fit > np.float32(0.45) and label not in taken:
                taken[label] = i
        in_crowd = crowd_cover(found, image.crowd) > 0.45
        for i, row in enumerate(found):
            mine = [label for label, owner in taken.items() if owner == i]
            if mine:
                matrix[int(row[5]), int(image.labels[mine[0], 0])] += 1
            elif not in_crowd[i]:
                matrix[int(row[5]), 3] += 1
        for label, row in enumerate(image.labels):
            matrix[3, int(row[0])] += label not in taken
    return matrix


@pytest.fixture(params=[1, 1 << 17], ids=["a row at a time", "all rows"])
def chunked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "_PAIRS", request.param)


scenes = st.builds(scene, st.integers(0, 2**32), st.integers(0, 5), st.booleans())
some = settings(deadline=None, max_examples=40)


@pytest.mark.usefixtures("chunked")
def test_matches_of_a_set_are_those_of_its_images():
    @some
    @given(images=scenes)
    def check(images: list[ImageDetections]) -> None:
        matches, rows, at = match_images(images), 0, 0
        for image in images:
            own = matches.label_of[at : at + len(image.detections)]
            for column, threshold in enumerate(IOU_THRESHOLDS):
                expected = [i + rows if i >= 0 else -1 for i in slow_claims(image, threshold)]
                assert own[:, column].tolist() == expected
            cover = crowd_cover(image.detections, image.crowd)[:, None]
            expected_crowd = (own < 0) & (cover >= IOU_THRESHOLDS)
            assert np.array_equal(matches.in_crowd[at : at + len(own)], expected_crowd)
            rows, at = rows + len(image.labels), at + len(own)

    check()


@pytest.mark.usefixtures("chunked")
def test_the_confusion_matrix_of_a_set_is_that_of_its_images():
    @some
    @given(images=scenes)
    def check(images: list[ImageDetections]) -> None:
        at_once, one_by_one = ConfusionMatrix(3), ConfusionMatrix(3)
        at_once.add_all(*stacked(images))
        for image in images:
            one_by_one.add(image.detections, image.labels, image.crowd)
        assert np.array_equal(at_once.matrix, slow_confusion(images))
        assert np.array_equal(one_by_one.matrix, at_once.matrix)

    check()


@some
@given(images=scenes)
def test_average_precision_is_that_of_the_envelope_over_every_detection(
    images: list[ImageDetections],
):
    metrics, matches = detection_metrics(images), match_images(images)
    order = np.argsort(-matches.detections[:, 4], kind="stable")
    for row, cls in enumerate(metrics.classes):
        mine = order[matches.detections[order, 5] == cls]
        for column in range(10):
            hits, counted = matches.correct[mine, column], ~matches.in_crowd[mine, column]
            area, curve = slow_average_precision(hits, counted, metrics.labels_per_class[row])
            if not len(mine) or not matches.correct.any():
                area, curve = 0.0, np.zeros(len(CURVE))
            assert metrics.ap[row, column] == pytest.approx(area, abs=1e-12)
            if column == 0:
                np.testing.assert_allclose(metrics.pr_curve[row], curve, atol=1e-12)


def test_pairs_come_in_chunks_of_whole_rows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(matching, "_PAIRS", 4)
    groups, others = np.array([5, 3, 9, 3, 3]), np.array([3, 5, 3, 8, 3])
    chunks = [list(zip(i.tolist(), j.tolist(), strict=True)) for i, j in pairs(groups, others)]
    assert chunks == [
        [(0, 1), (1, 0), (1, 2), (1, 4)],
        [(3, 0), (3, 2), (3, 4)],
        [(4, 0), (4, 2), (4, 4)],
    ]


def test_rows_without_company_make_no_pairs():
    nobody = np.zeros(0, np.int64)
    for groups, others in ((nobody, nobody), (np.array([1]), nobody), (nobody, np.array([1]))):
        assert list(pairs(groups, others)) == []
    assert list(pairs(np.array([7]), np.array([1, 9]))) == []


def test_a_stack_knows_the_picture_of_each_row():
    joined = stack([[BOX], [], [BOX, BOX]], 4)
    assert joined.picture.tolist() == [0, 2, 2]
    assert joined.rows.dtype == np.float32
    assert joined.where(joined.picture == 2).rows.tolist() == [list(BOX)] * 2
    assert stack([], 6).rows.shape == (0, 6)


def test_a_broken_detection_finds_nothing_and_spoils_no_other():
    nan, inf = float("nan"), float("inf")
    detections = [[nan, 10, 30, 30, 0.9, 0], [10, 10, inf, 30, 0.8, 0], [*BOX, 0.7, 0]]
    image = ImageDetections(0, np.array(detections, np.float32), np.array([[0, *BOX]], np.float32))
    assert match_images([image]).correct[:, 0].tolist() == [False, False, True]
