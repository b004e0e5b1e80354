"""The exponential moving average of a model, the weights that are evaluated and shipped."""

import copy
import math
from itertools import chain

import torch
from torch import Tensor

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
        """Starts at a model and follows it: its tensors must stay the ones they are."""
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.updates = 0
        self._own, self._followed = _floats(self.model), _floats(model)  # 0.8 ms to find in n

    @torch.no_grad()
    def update(self) -> None:
        """Moves every floating point entry of the state towards the model's; others stay."""
        self.updates += 1
        d = decay(self.updates)
        torch._foreach_mul_(self._own, d)  # one kernel for all entries
        torch._foreach_add_(self._own, self._followed, alpha=1 - d)


def _floats(model: Detector) -> list[Tensor]:
    entries = chain(model.parameters(), model.buffers())
    return [entry for entry in entries if entry.is_floating_point()]
