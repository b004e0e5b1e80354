"""The picture of an evolution."""

from dataclasses import asdict

import cv2

from yolov5_core.config import Hyperparameters
from yolov5_core.evolve import Individual, mutate
from yolov5_core.evolve_plot import plot_evolution

DEFAULT = asdict(Hyperparameters())


def individuals(number: int) -> list[Individual]:
    return [
        Individual(
            generation=n,
            hyp=DEFAULT if n == 1 else mutate(DEFAULT, DEFAULT, [], 0, n),
            results=(0, 0, 0, 0.1 * (n % 7), 0, 0, 0),
        )
        for n in range(1, number + 1)
    ]


def test_every_gene_has_a_panel_with_the_best_value_marked(tmp_path):
    image = cv2.imread(str(plot_evolution(individuals(9), tmp_path / "evolve.png")))
    assert image is not None
    red = (image[:, :, 2] > 200) & (image[:, :, 1] < 100)
    count, _, stats, _ = cv2.connectedComponentsWithStats(red.astype("uint8"))
    assert sum(stats[1:count, cv2.CC_STAT_AREA] > 20) == 25


def test_equal_generations_give_equal_bytes_in_any_order_and_change_nothing(tmp_path):
    found = individuals(3)
    first = plot_evolution(found, tmp_path / "a.png").read_bytes()
    assert plot_evolution(found[::-1], tmp_path / "b.png").read_bytes() == first
    assert found == individuals(3)


def test_a_single_generation_can_be_drawn(tmp_path):
    assert plot_evolution(individuals(1), tmp_path / "evolve.png").stat().st_size > 10_000
