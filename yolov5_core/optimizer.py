"""Parameter groups, the optimizers, and freezing (spec D.2)."""

from typing import Any, NamedTuple

import torch
from torch import nn

from yolov5_core.config import ConfigError, OptimizerKind
from yolov5_core.model import Detector
from yolov5_core.schedule import StepSettings


class ParameterGroups(NamedTuple):
    """Parameters by how they are regularised, in the order of the optimizer's groups."""

    bias: list[nn.Parameter]  # every bias, batch norm's included: no decay, own warm-up
    decayed: list[nn.Parameter]  # weights of convolutions
    norm: list[nn.Parameter]  # weights of batch norms: no decay


def parameter_groups(model: nn.Module) -> ParameterGroups:
    """Splits a model's parameters.

    Source: spec D.2, the v7 order.
    """
    groups = ParameterGroups([], [], [])
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias":
                groups.bias.append(parameter)
            elif isinstance(module, nn.BatchNorm2d):
                groups.norm.append(parameter)
            else:
                groups.decayed.append(parameter)
    return groups


def build_optimizer(
    model: nn.Module, kind: OptimizerKind, *, lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or Adam or AdamW with betas (momentum, 0.999).

    `weight_decay` is already scaled to the effective batch (schedule.scaled_weight_decay). Adam
    adds it to the gradient, AdamW takes it off the weights.

    Source: spec D.2.
    """
    groups = parameter_groups(model)
    settings = [
        {"params": groups.bias, "weight_decay": 0.0},
        {"params": groups.decayed, "weight_decay": weight_decay},
        {"params": groups.norm, "weight_decay": 0.0},
    ]
    betas = (momentum, 0.999)
    # fused: one kernel, and a loss scale's verdict is not waited for
    fused = all(p.device.type == "cuda" for p in model.parameters())
    kernels: dict[str, bool] = {"fused": True} if fused else {"foreach": True}
    if kind == "adam":
        return torch.optim.Adam(settings, lr=lr, betas=betas, **kernels)
    if kind == "adamw":
        return torch.optim.AdamW(settings, lr=lr, betas=betas, **kernels)
    return torch.optim.SGD(settings, lr=lr, momentum=momentum, nesterov=True, **kernels)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Continues from a state_dict(), with the kernels that this device is best at."""
    groups = [
        {**saved, "foreach": own["foreach"], "fused": own["fused"]}
        for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({**state, "param_groups": groups})


def apply_settings(optimizer: torch.optim.Optimizer, settings: StepSettings) -> None:
    """Sets rate and momentum of each group for one step; only SGD has a momentum to set."""
    for index, group in enumerate(optimizer.param_groups):
        group["lr"] = settings.lr_bias if index == 0 else settings.lr
        if "momentum" in group:
            group["momentum"] = settings.momentum


def freeze(model: Detector, layers: tuple[int, ...]) -> int:
    """Turns off the gradients of layers; one number k alone means layers 0 to k - 1.

    Returns:
        How many parameters were frozen.

    Raises:
        ConfigError: An index the model does not have, or nothing left to train.

    Source: spec D.2.
    """
    chosen = set(range(layers[0])) if len(layers) == 1 else set(layers)
    beyond = [i for i in chosen if not 0 <= i < len(model.model)]
    if beyond:
        raise ConfigError(
            f"freeze={list(layers)}: the model has layers 0 to {len(model.model) - 1}"
        )
    frozen = 0
    for index in chosen:
        for parameter in model.model[index].parameters():
            parameter.requires_grad_(False)
            frozen += 1
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError(f"freeze={list(layers)}: every layer is frozen, nothing would train")
    return frozen
