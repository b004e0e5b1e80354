import numpy as np
import pytest

from yolov5_core.evaluation import ImageDetections
from yolov5_core.worst import find_errors, worst_images

BOX = (10.0, 10.0, 30.0, 30.0)
FAR = (100.0, 100.0, 120.0, 120.0)


def image(
    index: int,
    detections: list[list[float]],
    labels: list[list[float]],
    crowd: list[list[float]] | None = None,
) -> ImageDetections:
    return ImageDetections(
        index,
        np.array(detections, np.float32).reshape(-1, 6),
        np.array(labels, np.float32).reshape(-1, 5),
        np.array(crowd or [], np.float32).reshape(-1, 5),
    )


def test_detections_and_labels_are_told_apart():
    errors = find_errors(
        image(3, [[*BOX, 0.9, 0], [*FAR, 0.8, 0], [*BOX, 0.7, 1]], [[0, *BOX], [1, *FAR]])
    )
    assert errors.index == 3
    assert errors.correct[:, 4] == pytest.approx([0.9])
    assert errors.false[:, 4] == pytest.approx([0.8, 0.7])  # of the wrong class
    assert errors.missed.tolist() == [[1, *FAR]]
    assert errors.harm == pytest.approx(1 + 0.8 + 0.7)


def test_a_second_detection_of_the_same_object_is_false():
    errors = find_errors(image(0, [[*BOX, 0.9, 0], [*BOX, 0.5, 0]], [[0, *BOX]]))
    assert (len(errors.correct), len(errors.false), len(errors.missed)) == (1, 1, 0)


def test_detections_up_to_a_quarter_confident_count_nowhere():
    errors = find_errors(image(0, [[*BOX, 0.25, 0], [*FAR, 0.2, 0]], [[0, *BOX]]))
    assert (len(errors.correct), len(errors.false), len(errors.missed)) == (0, 0, 1)


def test_what_lies_in_a_crowd_of_its_class_is_no_error():
    detections = [[*BOX, 0.9, 0], [*FAR, 0.8, 1]]
    crowd = [[0, 0, 0, 200, 200]]
    errors = find_errors(image(0, detections, [], crowd))
    assert errors.false[:, 5].tolist() == [1]


def test_the_worst_come_first_and_those_without_errors_not_at_all():
    perfect = image(0, [[*BOX, 0.9, 0]], [[0, *BOX]])
    one_missed = image(1, [], [[0, *BOX]])
    two_missed = image(2, [], [[0, *BOX], [0, *FAR]])
    half_wrong = image(3, [[*BOX, 0.5, 0]], [])
    same_as_one = image(4, [], [[1, *FAR]])
    images = [perfect, same_as_one, half_wrong, two_missed, one_missed]
    assert [e.index for e in worst_images(images)] == [2, 1, 4, 3]
    assert [e.index for e in worst_images(images, 2)] == [2, 1]
    assert worst_images([perfect]) == worst_images([]) == ()
