"""The exponential moving average of a model, the weights that are evaluated and shipped."""

import copy
import math

import torch

from yolov5_core.model import Detector

_DECAY = 0.9999
_RAMP = 2000  # updates: early averages forget fast


def decay(updates: int) -> float:
    """The average's decay at its updates-th update, from 1 on.

    Source: spec D.5.
    """
    return _DECAY * (1 - math.exp(-updates / _RAMP))


class Ema:
    """Keeps `model`, the average in evaluation mode, and `updates`, how often it was updated."""

    def __init__(self, model: Detector) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.updates = 0

    @torch.no_grad()
    def update(self, model: Detector) -> None:
        """Moves every floating point entry of the state towards the model's; others stay."""
        self.updates += 1
        d = decay(self.updates)
        own = [t for t in self.model.state_dict().values() if t.is_floating_point()]
        new = [t for t in model.state_dict().values() if t.is_floating_point()]
        torch._foreach_mul_(own, d)  # one kernel for all entries
        torch._foreach_add_(own, new, alpha=1 - d)
