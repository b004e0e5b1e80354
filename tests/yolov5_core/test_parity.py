import json

import numpy as np
import pytest

from yolov5_core.parity import Check, ParityError, Tally, markdown, report, require


def predictions(*rows: tuple[float, ...]) -> np.ndarray:
    """One picture's; rows cx, cy, w, h, objectness, two probabilities."""
    return np.array([rows], np.float32)


ORIGINAL = predictions((10, 20, 30, 40, 0.5, 0.25, 0.75), (1, 2, 3, 4, 0.1, 0.9, 0.1))


def tallied(*pairs: tuple[np.ndarray, np.ndarray]) -> Check:
    tally = Tally("a.onnx", "onnxruntime 1", 4)
    for original, exported in pairs:
        tally.add(original, exported)
    return tally.check()


def test_the_largest_difference_of_all_batches_counts_boxes_and_scores_apart():
    other = ORIGINAL.copy()
    other[0, 1, 2] += 0.25
    less = ORIGINAL.copy()
    less[0, 0, 0] -= 0.125
    less[0, 0, 6] -= 0.5
    check = tallied((ORIGINAL, other), (ORIGINAL, less))
    assert (check.boxes, check.scores, check.pictures) == (0.25, 0.5, 2)
    assert not check.passed


def test_what_agrees_passes():
    check = tallied((ORIGINAL, ORIGINAL + np.float32(5e-5)))
    assert check.passed
    require([check])


@pytest.mark.parametrize("column", [0, 5])
def test_a_number_that_is_none_does_not_pass_even_if_both_have_it(column: int):
    spoilt = ORIGINAL.copy()
    spoilt[0, 0, column] = np.nan
    check = tallied((spoilt, spoilt), (ORIGINAL, ORIGINAL))
    assert not check.passed
    assert "null" in json.dumps(report({}, [check]), allow_nan=False)


def test_boxes_that_score_above_a_quarter_are_told_apart():
    other = ORIGINAL.copy()
    other[0, 0, 0] += 0.25  # scores 0.5 * 0.75
    other[0, 1, 0] += 0.5  # scores 0.1 * 0.9
    check = tallied((ORIGINAL, other))
    assert (check.boxes, check.detected, check.detections) == (0.5, 0.25, 1)


def test_the_limit_is_four_times_the_originals_own_error_but_never_below_a_thousandth():
    tally = Tally("a.onnx", "onnxruntime 1", 4)
    other = ORIGINAL.copy()
    other[0, 0, 0] += 0.25
    tally.add(ORIGINAL, other)
    assert tally.check(own_error=0.0625).limit == 0.25
    assert not tally.check(own_error=0.0625).passed
    assert tally.check(own_error=0.07).passed
    assert tally.check(own_error=1e-5).limit == 1e-3


def test_an_output_of_another_shape_is_refused_in_words():
    check = tallied((ORIGINAL, ORIGINAL[:, :1]))
    with pytest.raises(ParityError, match=r"an output of \(1, 1, 7\) instead of \(1, 2, 7\)"):
        require([check])


def detected(original: list[np.ndarray], exported: np.ndarray) -> Check:
    tally = Tally("a.onnx", "onnxruntime 1", 4)
    tally.add_detections(original, exported)
    return tally.check()


FIRST = np.array([[0, 0, 10, 10, 0.9, 1], [5, 5, 20, 20, 0.8, 0]], np.float32)
SECOND = np.array([[1, 1, 2, 2, 0.7, 0]], np.float32)


def test_detections_are_compared_picture_by_picture_in_any_order_of_classes():
    exported = np.array(
        [[0, 5, 5, 20, 20.5, 0.8, 0], [0, 0, 0, 10, 10, 0.875, 1], [1, 1, 1, 2, 2, 0.7, 0]],
        np.float32,
    )
    check = detected([FIRST, SECOND], exported)
    assert check.boxes == 0.5
    assert check.scores == pytest.approx(0.025, abs=1e-6)
    assert check.remark == ""


def test_detections_whose_scores_change_places_are_still_compared_with_their_like():
    original = np.array([[0, 0, 9, 9, 0.5, 1], [50, 50, 60, 60, 0.4999999, 1]], np.float32)
    exported = np.array([[0, 50, 50, 60, 60.25, 0.5, 1], [0, 0, 0, 9, 9, 0.4999999, 1]], np.float32)
    check = detected([original], exported)
    assert check.boxes == 0.25
    assert check.scores < 1e-6


def test_a_detection_too_few_or_of_another_class_is_a_fault():
    exported = np.array([[0, 0, 0, 10, 10, 0.9, 1]], np.float32)
    check = detected([FIRST], exported)
    assert check.remark == "picture 1 has 1 detections instead of 2, or other classes"
    assert not check.passed
    swapped = np.array([[0, 0, 0, 10, 10, 0.9, 0], [0, 5, 5, 20, 20, 0.8, 0]], np.float32)
    assert not detected([FIRST], swapped).passed


def test_where_nothing_was_detected_nothing_was_shown():
    check = detected([np.zeros((0, 6), np.float32)], np.zeros((0, 7), np.float32))
    assert not check.passed
    assert check.remark == "nothing was detected or compared"


def test_the_gate_says_file_program_and_by_how_much():
    counts = {"batch": 1, "pictures": 3, "detections": 2, "detected": 0.0}
    bad = Check(file="a.onnx", program="OpenCV 5", boxes=0.5, scores=1e-9, **counts)
    good = Check(file="b.onnx", program="torch", boxes=0.0, scores=0.0, **counts)
    with pytest.raises(ParityError) as caught:
        require([good, bad])
    said = str(caught.value)
    assert "a.onnx in OpenCV 5: boxes 0.5 px, scores 1e-09 apart, allowed are 0.001 px" in said
    assert "b.onnx" not in said
    assert "Nothing was published" in said


def test_a_report_reads_as_json_and_as_a_table():
    check = tallied((ORIGINAL, ORIGINAL + 1))
    facts = {"source": "best", "source_sha256": "00", "image_size": [64, 128]}
    said = json.loads(json.dumps(report(facts, [check])))
    assert said["passed"] is False
    assert said["checks"][0]["boxes"] == 1.0
    assert "| a.onnx | onnxruntime 1 | 1 in batches of 4 | 1 | 1 | 0.001 | 1 | NO |" in markdown(
        said
    )
    assert "128 x 64 pixels" in markdown(said)
