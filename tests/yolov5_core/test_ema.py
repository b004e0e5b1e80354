import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import tiny_description
from yolov5_core.ema import Ema, decay
from yolov5_core.model import Detector


@given(st.integers(1, 10**7))
def test_the_decay_rises_towards_its_limit(updates: int):
    assert 0 < decay(updates) <= decay(updates + 1) <= 0.9999


def test_the_decay_by_hand():
    assert decay(2000) == pytest.approx(0.9999 * (1 - 1 / math.e))


def test_an_update_moves_every_float_of_the_state_and_no_integer():
    torch.manual_seed(0)
    model = Detector(tiny_description())
    ema = Ema(model)
    before = {key: value.clone() for key, value in ema.model.state_dict().items()}
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(1)
    ema.update()
    ema.update()
    weight = decay(1) * decay(2)  # what is left of the start
    for key, value in ema.model.state_dict().items():
        old, new = before[key], model.state_dict()[key]
        expected = weight * old + (1 - weight) * new if old.is_floating_point() else old
        torch.testing.assert_close(value, expected)
    assert ema.updates == 2


def test_the_average_is_a_model_of_its_own():
    model = Detector(tiny_description())
    ema = Ema(model)
    assert model.training
    assert not ema.model.training
    assert not any(p.requires_grad for p in ema.model.parameters())
    assert all(p.requires_grad for p in model.parameters())
    pairs = zip(model.parameters(), ema.model.parameters(), strict=True)
    assert not any(a.data_ptr() == b.data_ptr() for a, b in pairs)
