import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulated import simulated_pictures
from yolov5_core import bootstrap
from yolov5_core.bootstrap import _draw, _Measured, compare, fitness
from yolov5_core.evaluation import ImageDetections, detection_metrics

A_BOX = [0, 0, 10, 10]


def one_image(index: int, score: float | None, cls: int = 0) -> ImageDetections:
    """A picture with one object, found exactly with a score, or missed."""
    rows = [] if score is None else [[*A_BOX, score, cls]]
    detections = np.array(rows, np.float32).reshape(-1, 6)
    return ImageDetections(index, detections, np.array([[cls, *A_BOX]], np.float32))


@settings(max_examples=30)
@given(night=st.integers(0, 1000), images=st.integers(1, 30))
def test_with_every_picture_once_it_is_the_average_precision_of_metrics(night: int, images: int):
    found = simulated_pictures(night, images, {0: 0.8, 1: 0.5})
    metrics = detection_metrics(found)
    ap = _Measured(found).average_precision(np.ones((1, images)))[0]
    np.testing.assert_allclose(ap, metrics.ap, atol=1e-9)
    assert fitness(ap) == pytest.approx(metrics.fitness)


@settings(max_examples=20)
@given(night=st.integers(0, 1000))
def test_a_picture_that_is_drawn_twice_counts_like_two_pictures(night: int):
    found = simulated_pictures(night, 12, {0: 0.8})
    weights = _draw(3, night, 12)
    drawn = [image for image, times in zip(found, weights, strict=True) for _ in range(times)]
    metrics = detection_metrics(drawn)
    measured = _Measured(found)
    ap = measured.average_precision(weights[None])[0]
    present = np.isin(measured.classes, metrics.classes)
    np.testing.assert_allclose(ap[present], metrics.ap, atol=1e-6)
    assert np.isnan(ap[~present]).all()


def test_a_class_found_in_crowds_alone_has_no_precision_to_speak_of():
    seen = [0, 0, 10, 10, 0.9]
    found = ImageDetections(
        0,
        np.array([[*seen, 0], [*seen, 1]], np.float32),
        np.array([[0, 0, 0, 10, 10], [1, 50, 50, 60, 60]], np.float32),
        np.array([[1, 0, 0, 20, 20]], np.float32),
    )
    metrics = detection_metrics([found])
    np.testing.assert_allclose(metrics.ap[0], 1, atol=0.01)
    assert not metrics.ap[1].any()
    assert not _Measured([found]).average_precision(np.ones((1, 1)))[0, 1].any()


def test_many_draws_at_once_are_the_draws_one_by_one():
    found = simulated_pictures(0, 20, {})
    weights = np.stack([_draw(0, number, 20) for number in range(7)])
    measured = _Measured(found)
    singly = [measured.average_precision(row[None])[0] for row in weights]
    np.testing.assert_allclose(measured.average_precision(weights), np.stack(singly), atol=1e-9)


def test_by_hand_the_one_who_finds_the_third_object_gains_a_sixth():
    before = [one_image(0, 0.9), one_image(1, 0.8), one_image(2, None)]
    after = [one_image(0, 0.9), one_image(1, 0.8), one_image(2, 0.7)]
    found = compare(before, after, seed=0, draws=200)
    # Two thirds of the area, and from there down to nothing along a straight line: 5 / 6.
    assert found.champion.mean() == pytest.approx(5 / 6, abs=0.01)
    assert found.challenger.mean() == pytest.approx(1, abs=0.01)
    assert found.gain == pytest.approx(1 / 6, abs=0.01)
    assert (found.gains >= 0).all()
    # Without the third picture, (2/3)^3 of all draws, there is no gain.
    assert (found.gains == 0).mean() == pytest.approx((2 / 3) ** 3, abs=0.1)


def test_the_same_model_gains_nothing_in_any_draw():
    found = simulated_pictures(0, 30, {})
    same = compare(found, found, seed=0, draws=50)
    assert not same.gains.any()
    assert same.interval() == (0, 0)
    assert same.chance_of_better == 0


def test_the_same_seed_draws_the_same_pictures_and_another_others():
    pair = [simulated_pictures(0, 30, {}, seed=seed) for seed in (1, 2)]
    first, again, other = (compare(*pair, seed=seed, draws=20).gains for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_other_pictures_are_refused():
    pair = simulated_pictures(0, 5, {}), simulated_pictures(1, 5, {})
    with pytest.raises(ValueError, match="not measured on the same pictures"):
        compare(*pair, seed=0)


def test_a_huge_set_gets_fewer_draws_and_its_whole_result(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bootstrap, "_MOST_WORK", 1e6)
    images = [
        ImageDetections(
            index,
            np.tile(np.array([[*A_BOX, 0.5, 0]], np.float32), (20, 1)),
            np.array([[0, *A_BOX]], np.float32),
        )
        for index in range(200)
    ]
    found = compare(images, images, seed=0)
    assert len(found.gains) == 100
    assert found.images == 200


def test_a_set_without_labels_has_nothing_to_compare():
    empty = ImageDetections(0, np.zeros((0, 6), np.float32), np.zeros((0, 5), np.float32))
    found = compare([empty], [empty], seed=0, draws=10)
    assert found.gain == 0
    assert found.classes.size == 0
