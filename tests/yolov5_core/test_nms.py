import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolov5_core import nms
from yolov5_core.nms import NmsConfig, non_max_suppression

EVERYTHING = NmsConfig(confidence=0.0, iou=0.5, multi_label=True)


def prediction(cx: float, cy: float, w: float, h: float, *probabilities: float) -> list[float]:
    return [cx, cy, w, h, 1.0, *probabilities]


def suppress(rows: list[list[float]], config: NmsConfig = EVERYTHING) -> list[list[float]]:
    (kept,) = non_max_suppression(torch.tensor([rows]), config)
    return kept.tolist()


def test_of_two_boxes_over_one_object_the_better_score_stays() -> None:
    rows = [prediction(50, 50, 20, 20, 0.25), prediction(51, 50, 20, 20, 0.75)]
    assert suppress(rows) == [[41, 40, 61, 60, 0.75, 0]]


def test_score_is_objectness_times_class_probability() -> None:
    ((*_, score, cls),) = suppress([[50, 50, 20, 20, 0.5, 0.0, 0.25]])
    assert (score, cls) == (0.125, 1)


def test_an_iou_of_exactly_the_threshold_stays() -> None:
    # 2 x 8 of overlap in a union of 5 x 8 is 0.4; 3 x 8 in 5 x 8 is 0.6.
    for iou, width, shift in ((0.4, 3.5, 1.5), (0.6, 4, 1)):
        rows = [prediction(10, 10, width, 8, 0.5), prediction(10 + shift, 10, width, 8, 0.25)]
        assert len(suppress(rows, NmsConfig(confidence=0, iou=iou))) == 2
        assert len(suppress(rows, NmsConfig(confidence=0, iou=iou - 0.001))) == 1


def test_classes_suppress_each_other_only_if_agnostic() -> None:
    rows = [prediction(50, 50, 20, 20, 0.75, 0), prediction(50, 50, 20, 20, 0, 0.5)]
    assert len(suppress(rows)) == 2
    assert len(suppress(rows, NmsConfig(confidence=0, agnostic=True))) == 1


def test_small_boxes_of_a_late_class_keep_their_precision() -> None:
    # With an offset of class x 7680 in float32 these two would round to the same box.
    probabilities = [0.0] * 79
    rows = [
        prediction(50, 50, 0.04, 0.04, *probabilities, 0.75),
        prediction(50.03, 50, 0.04, 0.04, *probabilities, 0.5),
    ]
    assert len(suppress(rows)) == 2


def test_multi_label_gives_one_box_every_class_above_confidence() -> None:
    row = prediction(50, 50, 20, 20, 0.5, 0.25, 0.125)
    config = NmsConfig(confidence=0.125, multi_label=True)
    assert [kept[4:] for kept in suppress([row], config)] == [[0.5, 0], [0.25, 1]]
    assert [kept[4:] for kept in suppress([row], NmsConfig(confidence=0.125))] == [[0.5, 0]]


def test_only_wanted_classes_stay() -> None:
    rows = [prediction(50, 50, 20, 20, 0.5, 0.25, 0.125)]
    config = NmsConfig(confidence=0, multi_label=True, classes=(0, 2))
    assert [kept[5] for kept in suppress(rows, config)] == [0, 2]


def test_equal_scores_keep_the_order_of_the_rows() -> None:
    rows = [prediction(100.0 * i, 50, 20, 20, 0.5) for i in range(50)]
    assert [kept[0] for kept in suppress(rows)] == [100.0 * i - 10 for i in range(50)]


def test_no_more_than_max_detections_stay_and_they_are_the_best() -> None:
    rows = [prediction(100.0 * i, 50, 20, 20, (i + 1) / 1024) for i in range(1000)]
    kept = suppress(rows, NmsConfig(confidence=0, max_detections=7))
    assert [row[4] * 1024 for row in kept] == [1000, 999, 998, 997, 996, 995, 994]


def test_candidates_beyond_the_limit_are_the_worst() -> None:
    rows = [prediction(100.0 * i, 50, 20, 20, (i + 1) / 16, 1 / 32) for i in range(10)]
    config = NmsConfig(confidence=0, multi_label=True, max_candidates=3)
    assert [row[4] * 16 for row in suppress(rows, config)] == [10, 9, 8]


def test_apriori_labels_join_with_score_one() -> None:
    predictions = torch.tensor([[prediction(50, 50, 20, 20, 0.5, 0.0)]]).repeat(2, 1, 1)
    labels = [torch.tensor([[0.0, 51, 50, 20, 20], [1.0, 50, 50, 20, 20]]), torch.zeros(0, 5)]
    with_labels, without = non_max_suppression(predictions, EVERYTHING, labels)
    assert with_labels.tolist() == [[41, 40, 61, 60, 1, 0], [40, 40, 60, 60, 1, 1]]
    assert without.tolist() == [[40, 40, 60, 60, 0.5, 0]]


def test_nothing_confident_gives_an_empty_tensor() -> None:
    for rows in (torch.zeros(2, 10, 7), torch.zeros(2, 0, 7)):
        assert [kept.shape for kept in non_max_suppression(rows, NmsConfig())] == [(0, 6), (0, 6)]


def test_boxes_without_area_stay_and_broken_ones_go() -> None:
    rows = [
        prediction(50, 50, 0, 0, 0.75),
        prediction(50, 50, 0, 0, 0.5),
        prediction(float("nan"), 50, 20, 20, 0.5),
        prediction(50, 50, float("inf"), 20, 0.5),
    ]
    assert suppress(rows) == [[50, 50, 50, 50, 0.75, 0], [50, 50, 50, 50, 0.5, 0]]


def test_half_precision_predictions_give_float32_detections() -> None:
    predictions = torch.tensor([[prediction(50, 50, 20, 20, 0.5)]], dtype=torch.float16)
    (kept,) = non_max_suppression(predictions, EVERYTHING)
    assert kept.dtype == torch.float32


@pytest.mark.parametrize("wrong", [{"iou": 1.5}, {"confidence": -1.0}, {"max_detections": 0}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        NmsConfig(**wrong)  # type: ignore[arg-type]


def random_predictions(seed: int, n: int, num_classes: int, spread: float) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    rows = rng.random((1, n, 5 + num_classes))
    rows[..., :2] *= spread
    rows[..., 2:4] = 5 + 20 * rows[..., 2:4]
    rows[..., 4:] = np.ceil(rows[..., 4:] * 8) / 8  # many equal scores
    return torch.from_numpy(rows.astype(np.float32))


def slow_suppression(rows: np.ndarray, config: NmsConfig) -> list[list[float]]:
    """One candidate at a time against every box kept."""
    candidates = [
        (row[:4].astype(np.float64), np.float32(row[4] * probability), cls)
        for row in rows
        for cls, probability in enumerate(row[5:])
        if row[4] * probability > config.confidence
    ]
    candidates.sort(key=lambda candidate: -candidate[1])  # stable
    kept: list[list[float]] = []
    for (cx, cy, w, h), score, cls in candidates[: config.max_candidates]:
        x1, y1, x2, y2 = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
        for kx1, ky1, kx2, ky2, _, kept_class in kept:
            inter = max(min(x2, kx2) - max(x1, kx1), 0) * max(min(y2, ky2) - max(y1, ky1), 0)
            iou = inter / (w * h + (kx2 - kx1) * (ky2 - ky1) - inter)
            if iou > config.iou and (config.agnostic or cls == kept_class):
                break
        else:
            kept.append([x1, y1, x2, y2, float(score), cls])
    return kept[: config.max_detections]


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(0, 400),
    num_classes=st.integers(2, 3),
    spread=st.sampled_from([30.0, 300.0]),
    agnostic=st.booleans(),
    max_detections=st.sampled_from([5, 300]),
)
def test_suppression_equals_the_obvious_loop(
    seed: int, n: int, num_classes: int, spread: float, agnostic: bool, max_detections: int
) -> None:
    predictions = random_predictions(seed, n, num_classes, spread)
    config = NmsConfig(
        confidence=0.2,
        iou=0.4567,  # hit exactly by no pair
        multi_label=True,
        agnostic=agnostic,
        max_detections=max_detections,
        max_candidates=500,
    )
    (kept,) = non_max_suppression(predictions, config)
    expected = slow_suppression(predictions[0].numpy(), config)
    np.testing.assert_allclose(kept.numpy(), np.reshape(expected, (-1, 6)), atol=1e-4)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32), n=st.integers(0, 300))
def test_suppressing_again_changes_nothing(seed: int, n: int) -> None:
    (once,) = non_max_suppression(random_predictions(seed, n, 2, 100.0), EVERYTHING)
    boxes = torch.cat([(once[:, :2] + once[:, 2:4]) / 2, once[:, 2:4] - once[:, :2]], 1)
    one_hot = torch.nn.functional.one_hot(once[:, 5].long(), 2)
    again = torch.cat([boxes, once[:, 4:5], one_hot], 1)
    # Centre and size of float32 corners are not exact: a hair's breadth above the threshold.
    config = NmsConfig(confidence=0, iou=0.5001, multi_label=True)
    (twice,) = non_max_suppression(again[None], config)
    np.testing.assert_allclose(twice, once, atol=1e-4)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32), n=st.integers(30, 300), agnostic=st.booleans())
def test_parts_windows_and_blocks_make_no_difference(seed: int, n: int, agnostic: bool) -> None:
    predictions = random_predictions(seed, n, 3, 60.0)
    config = NmsConfig(
        confidence=0.05, iou=0.4567, multi_label=True, agnostic=agnostic, max_candidates=n
    )
    (whole,) = non_max_suppression(predictions, config)
    with pytest.MonkeyPatch.context() as patch:
        for name, small in (("_FIRST_ROWS", 10), ("_WINDOW", 7), ("_BLOCK", 3)):
            patch.setattr(nms, name, small)
        (in_pieces,) = non_max_suppression(predictions, config)
    expected = slow_suppression(predictions[0].numpy(), config)
    assert torch.equal(in_pieces, whole)
    np.testing.assert_allclose(whole.numpy(), np.reshape(expected, (-1, 6)), atol=1e-4)


def test_a_class_probability_that_is_not_a_number_drops_its_row() -> None:
    rows = [prediction(50, 50, 20, 20, float("nan"), 0.9), prediction(150, 50, 20, 20, 0.5, 0)]
    assert suppress(rows) == [[140, 40, 160, 60, 0.5, 0]]
