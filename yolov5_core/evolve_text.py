"""The files of an evolution that people and other programs read: evolve.txt, hyp_evolved.yaml."""

from collections.abc import Sequence

import yaml

from yolov5_core.evolve import Individual, Table, best_first


def evolve_text(individuals: Sequence[Individual]) -> str:
    """evolve.txt: a row a table, the fittest first; rows of the same text are one.

    Columns are the seven results, then the hyperparameters in key order, all to 3 digits: people
    read it. Nothing is computed from it, for its numbers are rounded.

    Source: spec F.3, second form.
    """
    rows = [
        " ".join(f"{value:>10.3g}" for value in (*map(_written, each.results), *each.hyp.values()))
        for each in best_first(individuals)
    ]
    return "".join(f"{row}\n" for row in dict.fromkeys(rows))


def evolved_yaml(individuals: Sequence[Individual]) -> str:
    """hyp_evolved.yaml: the fittest table in full precision, a file for the setting `hyp`.

    Args:
        individuals: At least one.

    Source: spec F.3.
    """
    best = best_first(individuals)[0]
    metrics = "".join(f"{value:>10.4g}" for value in best.results)
    return (
        "# Hyperparameter Evolution Results\n"
        f"# Generations: {len(individuals)}\n"
        f"# Metrics: {metrics}\n\n{table_yaml(best.hyp)}"
    )


def _written(result: float) -> float:
    """A result as the row's first form has it, to 4 digits: the second one is made from it."""
    return float(f"{result:.4g}")


def table_yaml(table: Table) -> str:
    """A table as `key: number` lines in its order, in full precision."""
    return str(yaml.safe_dump(dict(table), sort_keys=False))


def describe_individual(individual: Individual) -> str:
    """Three lines for the log: keys, values, results.

    Source: spec F.3, what is printed.
    """
    keys = "".join(f"{key:>10}" for key in individual.hyp)
    values = "".join(f"{value:>10.3g}" for value in individual.hyp.values())
    results = "".join(f"{value:>10.4g}" for value in individual.results)
    return f"{keys}\n{values}\nEvolved fitness: {results}"
