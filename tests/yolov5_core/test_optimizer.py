from typing import get_args

import pytest
import torch
from torch import nn

from tests.tiny import tiny_description
from yolov5_core.config import ConfigError, OptimizerKind
from yolov5_core.model import Detector
from yolov5_core.optimizer import (
    apply_settings,
    build_optimizer,
    freeze,
    parameter_groups,
    restore_optimizer,
)
from yolov5_core.schedule import StepSettings

KINDS = get_args(OptimizerKind)


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
    for kind in KINDS:
        optimizer = build_optimizer(model, kind, lr=0.01, momentum=0.9, weight_decay=0.0005)
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.0005, 0.0]


def test_sgd_is_of_the_nesterov_kind():
    sgd = build_optimizer(build(), "sgd", lr=0.01, momentum=0.9, weight_decay=0.0)
    assert type(sgd) is torch.optim.SGD
    assert all(group["nesterov"] and group["momentum"] == 0.9 for group in sgd.param_groups)


@pytest.mark.parametrize(
    ("kind", "cls"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_the_momentum_is_the_first_beta_of_adam_and_adamw(
    kind: OptimizerKind, cls: type[torch.optim.Optimizer]
):
    optimizer = build_optimizer(build(), kind, lr=0.01, momentum=0.9, weight_decay=0.0)
    assert type(optimizer) is cls
    assert all(group["betas"] == (0.9, 0.999) for group in optimizer.param_groups)


@pytest.mark.parametrize("kind", KINDS)
def test_where_no_loss_pulls_each_kind_shrinks_the_weights_of_convolutions_in_its_own_way(
    kind: OptimizerKind,
):
    # SGD: w -= lr (1 + momentum) decay w. Adam: w -= lr sign(w), for its first step has length lr.
    # AdamW: w -= lr decay w.
    model = build()
    decayed, others = parameter_groups(model).decayed, parameter_groups(model)
    before = [p.detach().clone() for p in decayed]
    rest = [p.detach().clone() for p in (*others.bias, *others.norm)]
    optimizer = build_optimizer(model, kind, lr=0.01, momentum=0.9, weight_decay=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for old, parameter in zip(before, decayed, strict=True):
        expected = {
            "sgd": old * (1 - 0.01 * 1.9 * 0.1),
            "adam": old - 0.01 * old.sign(),
            "adamw": old * (1 - 0.01 * 0.1),
        }[kind]
        seen = old.abs() > 1e-4  # Adam divides by |gradient| + 1e-8
        torch.testing.assert_close(parameter.detach()[seen], expected[seen], rtol=1e-4, atol=1e-5)
    kept = zip(rest, (*others.bias, *others.norm), strict=True)
    assert all(torch.equal(old, parameter) for old, parameter in kept)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_sets_the_rate_of_biases_apart(kind: OptimizerKind):
    optimizer = build_optimizer(build(), kind, lr=0.01, momentum=0.9, weight_decay=0.0)
    apply_settings(optimizer, StepSettings(lr_bias=0.1, lr=0.001, momentum=0.8, accumulate=1))
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.001, 0.001]
    expected = 0.8 if kind == "sgd" else None
    assert [group.get("momentum") for group in optimizer.param_groups] == [expected] * 3


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


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_of_another_device_goes_on_with_the_kernels_of_this_one(kind: OptimizerKind):
    model = build()
    optimizer = build_optimizer(model, kind, lr=0.01, momentum=0.9, weight_decay=0.0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = optimizer.state_dict()
    other = build_optimizer(model, kind, lr=0.5, momentum=0.5, weight_decay=0.1)
    foreign = [{**g, "foreach": False, "fused": True} for g in state["param_groups"]]
    restore_optimizer(other, {**state, "param_groups": foreign})
    assert all(g["foreach"] and not g["fused"] for g in other.param_groups)
    assert [g["lr"] for g in other.param_groups] == [0.01] * 3
    expected, found = optimizer.state_dict()["state"], other.state_dict()["state"]
    assert expected.keys() == found.keys()
    for key, values in expected.items():
        assert all(torch.equal(value, found[key][name]) for name, value in values.items())
