"""Selection and mutation of hyperparameter tables."""

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov5_core.config import Hyperparameters, load_hyperparameters, shipped_tables
from yolov5_core.evolve import (
    GENES,
    Individual,
    best_first,
    choose_parent,
    limits,
    measured,
    mutate,
    parent_weights,
)

TABLES = {name: asdict(load_hyperparameters(name)) for name in shipped_tables()}
DEFAULT = asdict(Hyperparameters())
seeds = st.integers(0, 2**32)
generations = st.integers(1, 10_000)


def individual(generation: int, map50_95: float, **hyp: float) -> Individual:
    return Individual(
        generation=generation, hyp={**DEFAULT, **hyp}, results=(0, 0, 0, map50_95, 0, 0, 0)
    )


@given(st.sampled_from(sorted(TABLES)), seeds, st.integers(2, 40))
def test_every_table_of_a_line_of_children_is_valid_and_within_its_limits(name, seed, length):
    given_table = table = TABLES[name]
    for generation in range(2, 2 + length):
        table = mutate(table, given_table, [], seed, generation)
        Hyperparameters(**table)
        for gene in GENES:
            low, high = limits(gene, given_table[gene])
            assert low <= table[gene] <= high, gene


@given(seeds, generations)
def test_the_same_seed_and_generation_make_the_same_child(seed, generation):
    first = mutate(DEFAULT, DEFAULT, [], seed, generation)
    assert mutate(DEFAULT, DEFAULT, [], seed, generation) == first
    assert mutate(DEFAULT, DEFAULT, [], seed, generation + 1) != first
    assert mutate(DEFAULT, DEFAULT, [], seed + 1, generation) != first


@given(seeds, generations, st.permutations(list(DEFAULT)))
def test_genes_are_known_by_name_whatever_the_order_of_the_table(seed, generation, order):
    shuffled = {key: DEFAULT[key] for key in order}
    child = mutate(shuffled, shuffled, [], seed, generation)
    assert list(child) == order
    assert child == mutate(DEFAULT, DEFAULT, [], seed, generation)


@given(seeds, generations)
def test_what_has_no_gain_or_is_off_stays_and_the_others_change_by_a_factor(seed, generation):
    child = mutate(DEFAULT, DEFAULT, [], seed, generation)
    for name, value in DEFAULT.items():
        if name not in GENES or GENES[name].gain == 0 or value == 0:
            assert child[name] == value, name
        else:
            assert 0.3 * value - 1e-5 <= child[name] <= 3 * value + 1e-5, name
            assert child[name] in (value, round(child[name], 5)), name


def test_the_limits_are_those_of_the_table_and_reach_as_far_as_the_table_as_given():
    assert limits("cls", 0.5) == (0.2, 4.0)
    assert limits("cls", 8.0) == (0.2, 8.0)  # `quick`, made for few classes
    assert limits("anchors", 0.0) == (0.0, 10.0)  # 0: the model's own, which two are no step from
    assert limits("lr0", 1e-6) == (1e-6, 0.1)


def test_a_tiny_value_is_not_rounded_out_of_its_limits():
    table = {**DEFAULT, "lr0": 1e-6}
    assert {mutate(table, table, [], seed, 2)["lr0"] for seed in range(50)} == {1e-6}


def test_a_table_that_was_tried_is_not_tried_again():
    first = mutate(DEFAULT, DEFAULT, [], 0, 2)
    second = mutate(DEFAULT, DEFAULT, [first], 0, 2)
    assert second not in (first, DEFAULT)
    assert second == mutate(DEFAULT, DEFAULT, [first], 0, 2)


def test_factors_have_the_spread_and_the_share_of_changes_of_the_rule():
    """Factor 1 + N U 0.2 of 80 % of the genes; the standard deviation of N U is the root of 1/3."""
    table = {**DEFAULT, "hsv_v": 0.3}  # far from its limits
    factors = np.array([mutate(table, table, [], s, 2)["hsv_v"] / 0.3 for s in range(3000)])
    changed = np.abs(factors - 1) > 1e-4
    assert changed.mean() == pytest.approx(0.8, abs=0.03)
    assert (factors[changed] - 1).std() == pytest.approx(0.2 / np.sqrt(3), rel=0.1)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_weights_of_parents_are_chances_and_grow_with_the_fitness(fitness):
    weights = parent_weights(fitness)
    assert weights.sum() == pytest.approx(1)
    assert (weights > 0).all()
    order = np.argsort(fitness)
    assert (np.diff(weights[order]) >= 0).all()


def test_weights_of_equal_parents_are_equal_and_the_worst_of_others_is_all_but_out():
    assert parent_weights([0.5]).tolist() == [1]
    assert parent_weights([0.2, 0.2]).tolist() == [0.5, 0.5]
    assert parent_weights([0.4, 0.2, 0.1]) == pytest.approx([0.75, 0.25, 0], abs=1e-5)


def test_a_parent_is_one_of_the_five_best_the_fitter_the_likelier():
    finished = [individual(n, 0.1 * n) for n in range(1, 8)]
    chosen = [choose_parent(finished, seed, 8).generation for seed in range(1000)]
    counts: Mapping[int, int] = {n: chosen.count(n) for n in range(1, 8)}
    assert counts[1] == counts[2] == 0
    assert counts[7] > counts[6] > counts[5] > counts[4] >= counts[3]
    assert counts[7] / 1000 == pytest.approx(0.4, abs=0.06)
    assert choose_parent(finished, 3, 8) == choose_parent(finished[::-1], 3, 8)


def test_of_equal_fitness_the_earlier_generation_is_first():
    found = best_first([individual(3, 0.2), individual(1, 0.2), individual(2, 0.5)])
    assert [each.generation for each in found] == [2, 1, 3]


def test_fitness_weighs_map50_95_nine_times_and_what_is_no_number_counts_as_zero():
    nan, inf = float("nan"), float("inf")
    found = Individual(generation=1, hyp={}, results=measured([1, 1, 0.5, 0.3, nan, inf, 2]))
    assert found.fitness == pytest.approx(0.05 + 0.27)
    assert found.results == (1, 1, 0.5, 0.3, 0, 0, 2)
