import json
from typing import Any

import pytest

from tests.golden_data import golden_files
from yolov5_core.evolve import Individual, measured
from yolov5_core.evolve_text import evolve_text, evolved_yaml

FILES = [json.loads(path.read_text()) for path in golden_files("formats*.json")]
MUTATIONS = next((file["mutations"] for file in FILES if "mutations" in file), [])
AFTER = next((file["evolve_after_each"] for file in FILES if "evolve_after_each" in file), [])


def first_generations(number: int) -> list[Individual]:
    return [
        Individual(generation=i, hyp=each["hyp"], results=measured(each["results"]))
        for i, each in enumerate(MUTATIONS[:number], start=1)
    ]


def as_written(individual: Individual) -> Individual:
    """What the public program knows of it later: it reads its own file of 3 digits."""
    return Individual(
        generation=individual.generation,
        hyp={key: float(f"{value:.3g}") for key, value in individual.hyp.items()},
        results=measured(float(f"{value:.3g}") for value in individual.results),
    )


@pytest.mark.parametrize("number", range(1, len(AFTER) + 1))
def test_golden_evolve_txt_is_the_same_text_after_each_generation(number: int) -> None:
    assert evolve_text(first_generations(number)) == AFTER[number - 1]["evolve_txt"]


@pytest.mark.parametrize("number", range(1, len(AFTER) + 1))
def test_golden_yaml_is_the_same_text_but_for_the_digits_that_the_public_one_loses(
    number: int,
) -> None:
    individuals = first_generations(number)
    golden: dict[str, Any] = AFTER[number - 1]
    first_row_alone = number == 1  # the first form of the row, which has 4 digits of the results
    known = [as_written(each) for each in individuals]
    if first_row_alone:
        known = [Individual(generation=1, hyp=known[0].hyp, results=individuals[0].results)]
    assert evolved_yaml(known) == golden["yaml"]
