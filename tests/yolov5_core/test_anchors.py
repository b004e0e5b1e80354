import numpy as np
import pytest

from yolov5_core.anchors import (
    anchor_fitness,
    anchor_quality,
    check_anchors,
    class_weights,
    image_weights,
    kmeans_anchors,
    label_sizes,
)

COCO = np.array(
    [[10, 13], [16, 30], [33, 23], [30, 61], [62, 45], [59, 119], [116, 90], [156, 198], [373, 326]]
)
THRESHOLD = 4.0


def labels(*sizes: tuple[float, float], cls: int = 0) -> np.ndarray:
    rows = [[cls, 0.5, 0.5, w, h] for w, h in sizes]
    return np.array(rows, np.float32).reshape(-1, 5)


def tiny_objects(seed: int = 0) -> tuple[np.ndarray, list[np.ndarray]]:
    """Images of 1280 x 1280 with objects of 4 to 8 pixels: 2 to 4 pixels at 640."""
    rng = np.random.default_rng(seed)
    rows = [labels(*map(tuple, rng.uniform(4, 8, (20, 2)) / 1280)) for _ in range(10)]
    return np.full((10, 2), 1280), rows


def test_label_sizes_are_pixels_of_the_resized_image() -> None:
    sizes = label_sizes([(1280, 640), (320, 640)], [labels((0.5, 0.5)), labels((1, 0.1))], 640)
    assert sizes.tolist() == [[320, 160], [320, pytest.approx(64)]]
    assert label_sizes(np.zeros((0, 2)), [], 640).shape == (0, 2)


def test_an_anchor_can_predict_what_is_less_than_the_threshold_larger_or_smaller() -> None:
    anchors = np.array([[10, 10], [100, 100]])
    sizes = np.array([[39, 10], [41, 10], [30, 30], [9, 3], [401, 401]])
    # (39,10): the first; (41,10): none; (30,30): both; (9,3): the first; (401,401): none.
    quality = anchor_quality(sizes, anchors, 4.0)
    assert (quality.bpr, quality.anchors_per_target) == (3 / 5, 4 / 5)


def test_fitness_is_the_mean_fit_of_the_best_anchor() -> None:
    anchors = np.array([[10, 10], [100, 100]])
    sizes = np.array([[10, 20], [50, 40], [1, 10]])  # 0.5, 0.4 and 0.1, which does not count
    assert anchor_fitness(sizes, anchors, 4.0) == pytest.approx(0.3)


def test_a_label_without_size_is_one_no_anchor_fits() -> None:
    assert anchor_quality(np.array([[0.0, 0.0], [10, 0]]), COCO, THRESHOLD).bpr == 0


def test_new_anchors_find_the_clusters_of_the_labels() -> None:
    rng = np.random.default_rng(1)
    centres = np.array([[10, 20], [60, 30], [200, 300]])
    sizes = (centres[:, None] * rng.uniform(0.95, 1.05, (3, 50, 2))).reshape(-1, 2)
    anchors = kmeans_anchors(sizes, 3, 640, THRESHOLD, 100, rng=rng)
    np.testing.assert_allclose(anchors, centres, rtol=0.05)


def test_new_anchors_are_sorted_by_area_and_at_least_two_pixels() -> None:
    sizes = np.random.default_rng(2).uniform(0, 6, (200, 2))
    anchors = kmeans_anchors(sizes, 9, 640, THRESHOLD, 200, rng=np.random.default_rng(0))
    assert (np.diff(anchors.prod(1)) >= 0).all()
    assert (anchors >= 2).all()


def test_evolution_makes_anchors_no_less_fit() -> None:
    sizes = np.exp(np.random.default_rng(3).normal(4, 1, (300, 2)))
    fitness = [
        anchor_fitness(
            sizes, kmeans_anchors(sizes, 9, 640, 4.0, n, rng=np.random.default_rng(0)), 4.0
        )
        for n in (0, 100, 400)
    ]
    assert fitness == sorted(fitness)


def test_the_same_generator_gives_the_same_anchors() -> None:
    sizes = np.exp(np.random.default_rng(4).normal(4, 1, (100, 2)))
    first, second = (
        kmeans_anchors(sizes, 9, 640, 4.0, 20, rng=np.random.default_rng(5)) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


def test_fewer_sizes_than_anchors_still_give_anchors(caplog: pytest.LogCaptureFixture) -> None:
    sizes = np.array([[20.0, 20], [20, 20], [50, 10]])
    anchors = kmeans_anchors(sizes, 9, 640, 4.0, rng=np.random.default_rng(0))
    assert anchors.shape == (9, 2)
    assert "3 label sizes for 9 anchors" in caplog.text


def test_anchors_for_no_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="2 pixels"):
        kmeans_anchors(np.ones((5, 2)), 9, 640, 4.0, rng=np.random.default_rng(0))


def test_anchors_that_miss_small_objects_are_replaced() -> None:
    check = check_anchors(*tiny_objects(), COCO, 640, THRESHOLD, rng=np.random.default_rng(0))
    assert check.replaced
    assert check.bpr_before < 0.5
    assert check.bpr_after > 0.98
    assert check.anchors.shape == COCO.shape
    assert "replaced" in check.message


def test_anchors_that_fit_stay_as_they_are() -> None:
    sizes = [tuple(size / 640) for size in COCO]
    check = check_anchors(
        [(640, 640)], [labels(*sizes)], COCO, 640, THRESHOLD, rng=np.random.default_rng(0)
    )
    assert not check.replaced
    assert check.anchors is COCO
    assert check.bpr_after == check.bpr_before == 1


def test_anchors_stay_if_new_ones_reach_no_more() -> None:
    # Half of the labels have no size at all: no anchor fits them.
    rows = labels((0.1, 0.1), (0.2, 0.2), (0, 0), (0, 0))
    check = check_anchors([(640, 640)], [rows], COCO, 640, THRESHOLD, rng=np.random.default_rng(0))
    assert not check.replaced
    assert check.bpr_after == check.bpr_before == 0.5


@pytest.mark.parametrize("rows", [[], [labels()], [labels((0.001, 0.001))]])
def test_without_labels_anchors_stay_and_the_message_says_why(rows: list[np.ndarray]) -> None:
    shapes = np.full((len(rows), 2), 640)
    check = check_anchors(shapes, rows, COCO, 640, THRESHOLD, rng=np.random.default_rng(0))
    assert not check.replaced
    assert "no labels" in check.message


def test_class_weights_are_inverse_frequencies_with_sum_one() -> None:
    rows = [labels((1, 1), (1, 1), (1, 1)), labels(), labels((1, 1), cls=1)]
    np.testing.assert_allclose(class_weights(rows, 3), np.array([1 / 3, 1, 1]) / (7 / 3))
    assert class_weights([], 2).tolist() == [0.5, 0.5]


def test_an_image_weighs_what_its_labels_weigh() -> None:
    rows = [labels((1, 1), (1, 1)), labels(), labels((1, 1), cls=1)]
    assert image_weights(rows, np.array([0.25, 0.5])).tolist() == [0.5, 0, 0.5]
