import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from yolov5_core.randomness import generator

counts = st.integers(0, 2**31)


@given(seed=counts, counters=st.lists(counts, max_size=3))
def test_equal_arguments_give_equal_draws(seed: int, counters: list[int]):
    first, second = (generator(seed, "augment", *counters).random(4) for _ in range(2))
    assert np.array_equal(first, second)


@given(seed=counts, counters=st.lists(counts, min_size=1, max_size=3))
def test_other_arguments_give_other_draws(seed: int, counters: list[int]):
    draws = generator(seed, "augment", *counters).random(2).tolist()
    assert generator(seed + 1, "augment", *counters).random(2).tolist() != draws
    assert generator(seed, "order", *counters).random(2).tolist() != draws
    assert generator(seed, "augment", *counters[:-1], counters[-1] + 1).random(2).tolist() != draws


def test_streams_of_neighbouring_samples_are_unrelated():
    draws = np.array([generator(0, "augment", 0, index).random(256) for index in range(32)])
    correlation = np.corrcoef(draws) - np.eye(32)
    assert np.abs(correlation).max() < 0.3  # 5 standard deviations of 1 / 16


def test_the_global_generator_is_neither_read_nor_moved():
    np.random.seed(1)  # noqa: NPY002  the global generator is what is being watched
    before = np.random.get_state()[1].copy()  # type: ignore[index,union-attr]  # noqa: NPY002
    generator(0, "augment").random(10)
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002
