"""Hyperparameter evolution: which table the next generation tries.

A generation's table is one of the best tables so far, some of its values multiplied by random
factors near 1. Genes are known by name, so the order of a table's keys means nothing.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from yolov5_core.randomness import generator

Table = Mapping[str, float]  # hyperparameters by name
Results = tuple[float, float, float, float, float, float, float]


class Gene(NamedTuple):
    """How a hyperparameter may change."""

    gain: float  # of its change; 0 keeps it
    low: float
    high: float


# Source: spec D.11, the table of 7.0. Hyperparameters that are not here stay as they are.
GENES: Mapping[str, Gene] = {
    "lr0": Gene(1, 1e-5, 0.1),
    "lrf": Gene(1, 0.01, 1.0),
    "momentum": Gene(0.3, 0.6, 0.98),
    "weight_decay": Gene(1, 0.0, 0.001),
    "warmup_epochs": Gene(1, 0.0, 5.0),
    "warmup_momentum": Gene(1, 0.0, 0.95),
    "warmup_bias_lr": Gene(1, 0.0, 0.2),
    "box": Gene(1, 0.02, 0.2),
    "cls": Gene(1, 0.2, 4.0),
    "cls_pw": Gene(1, 0.5, 2.0),
    "obj": Gene(1, 0.2, 4.0),
    "obj_pw": Gene(1, 0.5, 2.0),
    "anchor_t": Gene(1, 2.0, 8.0),
    "anchors": Gene(2, 2.0, 10.0),
    "fl_gamma": Gene(0, 0.0, 2.0),
    "hsv_h": Gene(1, 0.0, 0.1),
    "hsv_s": Gene(1, 0.0, 0.9),
    "hsv_v": Gene(1, 0.0, 0.9),
    "degrees": Gene(1, 0.0, 45.0),
    "translate": Gene(1, 0.0, 0.9),
    "scale": Gene(1, 0.0, 0.9),
    "shear": Gene(1, 0.0, 10.0),
    "perspective": Gene(0, 0.0, 0.001),
    "flipud": Gene(1, 0.0, 1.0),
    "fliplr": Gene(0, 0.0, 1.0),
    "mosaic": Gene(1, 0.0, 1.0),
    "mixup": Gene(1, 0.0, 1.0),
    "copy_paste": Gene(1, 0.0, 1.0),
}

_PARENTS = 5  # the best tables, of which one is changed
_LEAST_WEIGHT = 1e-6  # of the worst of them: all equal, or only one, is no division by zero
_CHANGED = 0.8  # chance of a gene to change
_SIGMA = 0.2
_FACTORS = (0.3, 3.0)
_DECIMALS = 5
_ATTEMPTS = 100  # to find a table that was not tried yet


@dataclass(frozen=True, kw_only=True, slots=True)
class Individual:
    """A table and what training with it gave."""

    generation: int  # from 1, the table as given
    hyp: Table
    results: Results  # P, R, mAP50, mAP50-95, val box, obj, cls of the last epoch, all finite

    @property
    def fitness(self) -> float:
        """0.1 mAP50 + 0.9 mAP50-95."""
        return 0.1 * self.results[2] + 0.9 * self.results[3]


def measured(results: Iterable[float]) -> Results:
    """Results with zeros for what is no number: it was not measured, and is the worst."""
    p, r, map50, map50_95, box, obj, cls = (v if math.isfinite(v) else 0.0 for v in results)
    return p, r, map50, map50_95, box, obj, cls


def best_first(individuals: Iterable[Individual]) -> list[Individual]:
    """Sorted by fitness; of equal ones the earlier generation is first."""
    return sorted(individuals, key=lambda each: (-each.fitness, each.generation))


def choose_parent(finished: Sequence[Individual], seed: int, generation: int) -> Individual:
    """One of the five best, the fitter the likelier; a pure function of its arguments.

    Args:
        finished: At least one.
        seed: Of the evolution.
        generation: The one that is to be made.

    Source: spec D.11, parent "single".
    """
    best = best_first(finished)[:_PARENTS]
    weights = parent_weights([each.fitness for each in best])
    rng = generator(seed, "evolve parent", generation)
    return best[int(rng.choice(len(best), p=weights))]


def parent_weights(fitness: Sequence[float]) -> np.ndarray:
    """(N,) float64 chances that sum to 1: proportional to the fitness above the lowest one."""
    weights = np.array(fitness, np.float64)
    weights = weights - weights.min() + _LEAST_WEIGHT
    return weights / weights.sum()


def mutate(
    parent: Table, given: Table, tried: Sequence[Table], seed: int, generation: int
) -> dict[str, float]:
    """A table that differs from its parent and from those tried; a pure function of its arguments.

    A value is multiplied, so one that is 0, a feature turned off, stays 0. Limits are those of
    GENES; where the table as given is beyond one, they reach that far.

    Args:
        parent: The table to change.
        given: The first generation's.
        tried: Tables of all generations so far.
        seed: Of the evolution.
        generation: The one that is made.

    Returns:
        The parent's keys in their order; changed values rounded to 5 decimals.

    Source: spec D.11.
    """
    known = [dict(parent), *map(dict, tried)]
    child = dict(parent)
    for attempt in range(_ATTEMPTS):
        factors = _factors(generator(seed, "evolve", generation, attempt))
        child = {name: _changed(name, value, factors, given) for name, value in parent.items()}
        if child not in known:
            break
    return child


def limits(name: str, given: float) -> tuple[float, float]:
    """Lowest and highest value of a gene in an evolution that began with a given value."""
    gene = GENES[name]
    return min(gene.low, given), max(gene.high, given)


def _factors(rng: np.random.Generator) -> dict[str, float]:
    gains = np.array([gene.gain for gene in GENES.values()])
    changed = rng.random(len(gains)) < _CHANGED
    steps = gains * changed * rng.standard_normal(len(gains)) * rng.random() * _SIGMA
    return dict(zip(GENES, np.clip(steps + 1, *_FACTORS).tolist(), strict=True))


def _changed(name: str, value: float, factors: Table, given: Table) -> float:
    factor = factors.get(name, 1.0)
    if factor == 1:
        return value
    low, high = limits(name, given[name])
    return min(max(round(value * factor, _DECIMALS), low), high)
