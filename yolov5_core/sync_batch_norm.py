"""Batch norm over the pictures of all ranks. torch's own needs a GPU; this one runs anywhere.

Axes: B pictures of this rank, perhaps none; C channels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yolov5_core.distributed import Group

_ALL_BUT_C = (0, 2, 3)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d with the statistics of the whole batch; the same keys and parameters."""

    def __init__(self, norm: nn.BatchNorm2d, group: Group) -> None:
        """Takes the place of a batch norm, with its parameters and running statistics."""
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self._parameters, self._buffers = norm._parameters, norm._buffers
        self.train(norm.training)
        self.group = group

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102  torch's name; the class says it
        if not self.training:
            return super().forward(input)
        y, mean, var, count = _Normalised.apply(input, self.weight, self.bias, self.eps, self.group)  # type: ignore[no-untyped-call]
        self._follow(mean, var, count)
        return y

    @torch.no_grad()
    def _follow(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        """Moves the running statistics; the variance is unbiased there, as in torch."""
        assert self.momentum is not None  # noqa: S101  we build it with a momentum
        assert self.running_mean is not None  # noqa: S101  and running statistics
        assert self.running_var is not None  # noqa: S101
        assert self.num_batches_tracked is not None  # noqa: S101
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var * (count / (count - 1).clamp(min=1)), self.momentum)


def synchronise(model: nn.Module, group: Group) -> None:
    """Puts a SyncBatchNorm2d in the place of every batch norm, with the same parameters."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, SyncBatchNorm2d(child, group))


class _Normalised(torch.autograd.Function):
    """Batch norm of one rank's pictures; messages: one forward, one backward.

    Source: Ioffe and Szegedy 2015 (arXiv:1502.03167), algorithm 1; the ranks' variances are merged
    as in Chan, Golub and LeVeque 1979, eq. 2.1.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, group: Group
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        C, wide = x.shape[1], _wide(x)
        own = torch.zeros(2 * C + 1, dtype=wide.dtype, device=x.device)
        if len(x):
            own[-1] = x.numel() // C
            var, mean = torch.var_mean(wide, _ALL_BUT_C, correction=0)
            own[:C], own[C:-1] = mean, var * own[-1]
        means, squares, counts = group.gather(own).split_with_sizes((C, C, 1), 1)
        count = counts.sum()
        mean = (means * counts).sum(0) / count
        var = (squares + counts * (means - mean) ** 2).sum(0) / count
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt(), count)
        ctx.mark_non_differentiable(mean, var, count)
        ctx.group = group
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps), mean, var, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse_std, count = ctx.saved_tensors
        dy = _wide(gradients[0])
        normal = (_wide(x) - _channels(mean)) * _channels(inverse_std)
        own = torch.cat((dy.sum(_ALL_BUT_C), (dy * normal).sum(_ALL_BUT_C)))
        mean_dy, mean_dy_normal = (ctx.group.sum(own) / count).chunk(2)
        dx = dy - _channels(mean_dy) - normal * _channels(mean_dy_normal)
        dbias, dweight = own.chunk(2)  # of this rank: gradients are summed after the backward pass
        dx = (dx * _channels(weight * inverse_std)).to(x.dtype)
        return dx, dweight.to(weight.dtype), dbias.to(weight.dtype), None, None


def _wide(x: Tensor) -> Tensor:
    """At least float32: half precision does not hold such sums."""
    return x if x.dtype == torch.float64 else x.float()


def _channels(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)
