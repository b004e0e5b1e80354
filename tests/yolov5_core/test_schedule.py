import math
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov5_core.config import LrCurve
from yolov5_core.schedule import (
    ScheduleConfig,
    accumulation,
    lr_factor,
    scaled_weight_decay,
    settings_at,
    warmup_steps,
)

CURVES = get_args(LrCurve)


@pytest.mark.parametrize(
    ("curve", "start", "half", "end"),
    [("linear", 1.0, 0.55, 0.1), ("cosine", 1.0, 0.55, 0.1), ("v3cosine", 1.0, 0.6, 0.2)],
)
def test_the_rate_falls_from_one_to_its_last_fraction(
    curve: LrCurve, start: float, half: float, end: float
):
    factors = [lr_factor(epoch, 10, 0.1, curve) for epoch in (0, 5, 10)]
    assert factors == pytest.approx([start, half, end])


def test_the_curve_of_v3_is_the_cosine_that_ends_at_a_fifth():
    for epoch in range(301):
        ours = lr_factor(epoch, 300, 0.2, "cosine")
        assert ours == pytest.approx(lr_factor(epoch, 300, 0.01, "v3cosine"), abs=1e-12)


def test_the_curves_part_between_their_ends():
    assert lr_factor(25, 100, 0.0, "linear") == 0.75
    assert lr_factor(25, 100, 0.0, "cosine") == pytest.approx((1 + math.sqrt(0.5)) / 2)
    config = ScheduleConfig(epochs=100, batch_size=16, lrf=0.0)
    rates = [
        settings_at(1000, 25, 10, replace(config, curve=curve)).lr for curve in ("linear", "cosine")
    ]
    assert rates == pytest.approx([0.0075, 0.01 * (1 + math.sqrt(0.5)) / 2])


@given(
    epochs=st.integers(1, 300), lrf=st.floats(0, 1), curve=st.sampled_from(CURVES), data=st.data()
)
def test_the_rate_never_rises(epochs: int, lrf: float, curve: LrCurve, data: st.DataObject):
    epoch = data.draw(st.integers(0, epochs - 1))
    now, then = (lr_factor(e, epochs, lrf, curve) for e in (epoch, epoch + 1))
    assert then <= now + 1e-12
    assert min(lrf, 0.2) - 1e-12 <= now <= 1 + 1e-12


@pytest.mark.parametrize(("batch", "count"), [(1, 64), (16, 4), (24, 3), (64, 1), (200, 1)])
def test_batches_are_accumulated_to_about_sixty_four_images(batch: int, count: int):
    assert accumulation(batch) == count


def test_weight_decay_follows_the_effective_batch():
    assert scaled_weight_decay(0.0005, 16) == pytest.approx(0.0005)
    assert scaled_weight_decay(0.0005, 128) == pytest.approx(0.001)
    assert scaled_weight_decay(0.0005, 24) == pytest.approx(0.0005 * 72 / 64)


def test_the_warm_up_lasts_three_epochs_but_a_hundred_steps_at_least():
    config = ScheduleConfig(epochs=100, batch_size=16)
    assert warmup_steps(10, config) == 100
    assert warmup_steps(1000, config) == 3000


def test_the_first_step_has_rate_zero_but_for_the_biases():
    first = settings_at(0, 0, 10, ScheduleConfig(epochs=100, batch_size=16))
    assert (first.lr, first.lr_bias, first.momentum, first.accumulate) == (0.0, 0.1, 0.8, 1)


def test_half_way_through_the_warm_up_everything_is_half_way():
    config = ScheduleConfig(epochs=100, batch_size=16, lrf=1.0)
    middle = settings_at(50, 5, 10, config)
    assert middle.lr == pytest.approx(0.005)
    assert middle.lr_bias == pytest.approx((0.1 + 0.01) / 2)
    assert middle.momentum == pytest.approx((0.8 + 0.937) / 2)
    assert middle.accumulate == 2  # 1 + 3 / 2 = 2.5, rounded half to even


def test_the_rate_of_an_epoch_is_its_own_also_right_after_the_warm_up():
    config = ScheduleConfig(epochs=100, batch_size=16)
    for step, epoch in ((100, 10), (101, 10), (110, 11)):
        assert settings_at(step, epoch, 10, config).lr == pytest.approx(
            0.01 * lr_factor(epoch, 100, 0.01, "linear")
        )


@given(step=st.integers(0, 2000), batch=st.integers(1, 300), curve=st.sampled_from(CURVES))
def test_every_step_has_settings_within_their_bounds(step: int, batch: int, curve: LrCurve):
    config = ScheduleConfig(epochs=100, batch_size=batch, curve=curve)
    settings = settings_at(step, min(step // 20, 99), 20, config)
    assert 0 <= settings.lr <= 0.01
    assert 0 <= settings.lr_bias <= 0.1
    assert 0.8 <= settings.momentum <= 0.937
    assert 1 <= settings.accumulate <= accumulation(batch)
    assert math.isfinite(settings.lr)
