import pytest
import torch
from torch import nn

from tests.tiny import tiny_description
from yolov5_core.config import ConfigError
from yolov5_core.model import Detector
from yolov5_core.optimizer import apply_settings, build_optimizer, freeze, parameter_groups
from yolov5_core.schedule import StepSettings


def build() -> Detector:
    return Detector(tiny_description())


def test_every_parameter_is_in_exactly_one_group():
    model = build()
    grouped = [id(p) for group in parameter_groups(model) for p in group]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters()}


def test_only_weights_of_convolutions_decay():
    model = build()
    groups = parameter_groups(model)
    names = {id(p): name for name, p in model.named_parameters()}
    assert all(names[id(p)].endswith(".bias") for p in groups.bias)
    assert all(".bn.weight" in names[id(p)] for p in groups.norm)
    assert all(p.dim() == 4 for p in groups.decayed)
    optimizer = build_optimizer(model, adam=False, lr=0.01, momentum=0.9, weight_decay=0.0005)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.0005, 0.0]


def test_the_optimizer_is_nesterov_sgd_or_adam_with_the_momentum_as_beta():
    sgd = build_optimizer(build(), adam=False, lr=0.01, momentum=0.9, weight_decay=0.0)
    assert isinstance(sgd, torch.optim.SGD)
    assert all(group["nesterov"] and group["momentum"] == 0.9 for group in sgd.param_groups)
    adam = build_optimizer(build(), adam=True, lr=0.01, momentum=0.9, weight_decay=0.0)
    assert isinstance(adam, torch.optim.Adam)
    assert all(group["betas"] == (0.9, 0.999) for group in adam.param_groups)


@pytest.mark.parametrize("adam", [False, True])
def test_a_step_sets_the_rate_of_biases_apart(adam: bool):
    optimizer = build_optimizer(build(), adam=adam, lr=0.01, momentum=0.9, weight_decay=0.0)
    apply_settings(optimizer, StepSettings(lr_bias=0.1, lr=0.001, momentum=0.8, accumulate=1))
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.001, 0.001]
    assert [group.get("momentum") for group in optimizer.param_groups] == [
        None if adam else 0.8
    ] * 3


def trainable_layers(model: Detector) -> list[int]:
    layers: list[nn.Module] = list(model.model)
    return [i for i, m in enumerate(layers) if any(p.requires_grad for p in m.parameters())]


def test_one_number_freezes_the_layers_before_it():
    model, whole = build(), trainable_layers(build())
    frozen = freeze(model, (10,))
    assert trainable_layers(model) == [i for i in whole if i >= 10]
    assert frozen == sum(1 for i in range(10) for _ in model.model[i].parameters())


def test_several_numbers_freeze_just_those_layers():
    model, whole = build(), trainable_layers(build())
    freeze(model, (0, 3))
    assert trainable_layers(model) == [i for i in whole if i not in (0, 3)]


def test_zero_freezes_nothing():
    model = build()
    assert freeze(model, (0,)) == 0
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("layers", [(26,), (3, 25), (-1, 2)])
def test_a_layer_the_model_does_not_have_is_refused(layers: tuple[int, ...]):
    with pytest.raises(ConfigError, match="the model has layers 0 to 24"):
        freeze(build(), layers)


def test_freezing_everything_is_refused():
    with pytest.raises(ConfigError, match="nothing would train"):
        freeze(build(), (25,))
