"""The files of an evolution."""

from dataclasses import asdict, replace

from yolov5_core.config import Hyperparameters, load_hyperparameters
from yolov5_core.evolve import Individual, mutate
from yolov5_core.evolve_text import describe_individual, evolve_text, evolved_yaml

DEFAULT = asdict(Hyperparameters())
FIRST = Individual(generation=1, hyp=DEFAULT, results=(0.5, 0.6, 0.41234, 0.2, 0.05, 0.03, 0.01))


def test_the_evolved_table_is_a_file_for_the_setting_hyp_in_full_precision(tmp_path):
    fitter = mutate({**DEFAULT, "weight_decay": 0.00001}, DEFAULT, [], 0, 2)
    second = replace(FIRST, generation=2, hyp=fitter, results=(0, 0, 1, 1, 0, 0, 0))
    path = tmp_path / "hyp_evolved.yaml"
    path.write_text(evolved_yaml([FIRST, second]), "utf-8")
    assert asdict(load_hyperparameters(str(path))) == fitter
    assert path.read_text("utf-8").splitlines()[:4] == [
        "# Hyperparameter Evolution Results",
        "# Generations: 2",
        "# Metrics: " + "         0         0         1         1         0         0         0",
        "",
    ]


def test_rows_are_the_fittest_first_and_equal_ones_are_one():
    worse = replace(FIRST, generation=2, results=(0.5, 0.6, 0.4, 0.1, 0.05, 0.03, 0.01))
    same = replace(FIRST, generation=3, hyp={**DEFAULT, "lr0": 0.010001})
    rows = evolve_text([worse, FIRST, same]).splitlines()
    assert len(rows) == 2
    assert [row.split()[3] for row in rows] == ["0.2", "0.1"]
    assert all(len(row) == 11 * (7 + len(DEFAULT)) - 1 for row in rows)


def test_the_log_tells_keys_values_and_results():
    keys, values, results = describe_individual(
        Individual(generation=1, hyp={"lr0": 0.01, "box": 0.05123}, results=FIRST.results)
    ).split("\n")
    assert (keys, values) == ("       lr0       box", "      0.01    0.0512")
    assert results == (
        "Evolved fitness:        0.5       0.6    0.4123       0.2      0.05      0.03      0.01"
    )
