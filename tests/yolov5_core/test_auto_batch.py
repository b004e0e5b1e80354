import copy
from typing import Any

import pytest
import torch

from tests.tiny import tiny_description
from yolov5_core import auto_batch
from yolov5_core.auto_batch import largest_batch
from yolov5_core.config import TrainConfig
from yolov5_core.model import Detector
from yolov5_core.step_policy import StepPolicy
from yolov5_core.trainer import loss_of

_BASE, _EACH = 10_000_000, 1_000_000  # bytes of a step, and of a picture of 64 pixels


class FakeMeter:
    """Memory of a device on which a step takes so much, and which counts the steps tried."""

    def __init__(self, free: int, monkeypatch: pytest.MonkeyPatch, *, bend: int = 0) -> None:
        self.room = free
        self.bend = bend  # from so many pictures on each takes twice
        self.tried: list[tuple[int, int]] = []
        step = auto_batch._step

        def watched(model: Detector, loss: Any, shape: Any, policy: StepPolicy) -> None:
            self.tried.append((shape[0], shape[3]))
            if self.peak() > free:
                raise torch.OutOfMemoryError
            step(model, loss, (1, *shape[1:]), policy)  # a real one, but a small one

        monkeypatch.setattr(auto_batch, "_step", watched)

    def free(self) -> int:
        return self.room

    def reset(self) -> None:
        pass

    def peak(self) -> int:
        pictures, side = self.tried[-1]
        beyond = max(pictures - self.bend, 0) if self.bend else 0
        return _BASE + _EACH * (pictures + beyond) * (side // 64) ** 2


@pytest.fixture
def model() -> Detector:
    torch.manual_seed(0)
    return Detector(tiny_description())


def found(model: Detector, meter: FakeMeter, most: int = 1000, **changes: Any) -> int:
    config = TrainConfig(**{"epochs": 1, "image_size": 64, **changes})
    return largest_batch(model, loss_of(model, config), config, StepPolicy(), meter, most)


def state_bytes(model: Detector, times: int) -> int:
    return times * sum(t.numel() * t.element_size() for t in model.state_dict().values())


def test_the_batch_is_the_largest_multiple_of_eight_that_fits(model, monkeypatch):
    extra = state_bytes(model, 2)  # the average and the momentum
    for pictures, expected in ((40, 40), (39, 32), (47, 40), (6, 6)):
        free = int((_BASE + _EACH * (pictures + 0.5) + extra) / 0.9)
        meter = FakeMeter(free, monkeypatch)
        assert found(model, meter) == expected
        assert len(meter.tried) == 3  # two for the line, one to be sure


def test_a_batch_has_no_more_pictures_than_there_are(model, monkeypatch):
    meter = FakeMeter(1000 * _BASE, monkeypatch)
    assert found(model, meter, 37) == 37
    assert max(pictures for pictures, _ in meter.tried) == 37
    assert found(model, FakeMeter(1000 * _BASE, monkeypatch), 39, quad=True) == 36


def test_adam_remembers_more_than_sgd(model, monkeypatch):
    free = int((_BASE + _EACH * 40 + state_bytes(model, 2)) / 0.9) + 1
    assert found(model, FakeMeter(free, monkeypatch)) == 40
    assert found(model, FakeMeter(free, monkeypatch), optimizer="adam") == 32


def test_where_a_step_needs_more_than_the_line_says_fewer_are_tried(model, monkeypatch):
    free = int((_BASE + _EACH * 100 + state_bytes(model, 2)) / 0.9) + 1
    meter = FakeMeter(free, monkeypatch, bend=40)
    assert found(model, meter) == 64  # 40 + 2 * 24 fit, 40 + 2 * 32 do not
    assert meter.peak() <= 0.9 * free


def test_nothing_that_fits_is_a_batch_of_one(model, monkeypatch):
    assert found(model, FakeMeter(_BASE, monkeypatch)) == 1


def test_larger_pictures_are_probed_at_their_largest(model, monkeypatch):
    free = int((_BASE + _EACH * 41 * 4 + state_bytes(model, 2)) / 0.9)
    meter = FakeMeter(free, monkeypatch)
    assert found(model, meter, quad=True) == 160  # 40 pictures of four
    assert {side for _, side in meter.tried} == {128}
    meter = FakeMeter(free, monkeypatch)
    found(model, meter, multi_scale=True, image_size=128)
    assert {side for _, side in meter.tried} == {192}


def test_a_probe_leaves_model_and_random_numbers_as_they_are(model, monkeypatch):
    before, drawn = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert found(model, FakeMeter(100 * _BASE, monkeypatch)) > 1
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), drawn)
