"""Building blocks of the detector (spec A.1). Tensors are (B, C, H, W) float."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

BATCH_NORM_EPS = 1e-3
BATCH_NORM_MOMENTUM = 0.03


def same_padding(kernel: int, dilation: int = 1) -> int:
    """Padding that keeps the size at stride 1 for an odd effective kernel."""
    return (dilation * (kernel - 1) + 1) // 2


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM)


class Conv(nn.Module):
    """Convolution without bias, batch norm, activation."""

    def __init__(  # noqa: PLR0913, PLR0917  the positional order is the public layer table's
        self,
        channels_in: int,
        channels_out: int,
        kernel: int = 1,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        dilation: int = 1,
        *,
        activation: nn.Module,
    ) -> None:
        super().__init__()
        pad = same_padding(kernel, dilation) if padding is None else padding
        self.conv = nn.Conv2d(
            channels_in, channels_out, kernel, stride, pad, dilation, groups, bias=False
        )
        self.bn: nn.Module = _batch_norm(channels_out)
        self.act = activation

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  the class says it
        return self.act(self.bn(self.conv(x)))

    @torch.no_grad()
    def fuse(self) -> None:
        """Folds the batch norm into the convolution, in place; rounds once, at the end.

        Source: spec A.6.
        """
        bn = self.bn
        if not isinstance(bn, nn.BatchNorm2d):
            return
        assert bn.running_var is not None  # noqa: S101  we build it with running statistics
        assert bn.running_mean is not None  # noqa: S101
        weight = self.conv.weight
        scale = bn.weight.double() / torch.sqrt(bn.running_var.double() + bn.eps)
        bias = bn.bias - bn.running_mean * scale
        weight.copy_(weight * scale.reshape(-1, 1, 1, 1))
        self.conv.bias = nn.Parameter(bias.to(weight.dtype))
        self.bn = nn.Identity()


class DWConv(Conv):
    """Depth-wise Conv: as many groups as both channel counts allow."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        activation: nn.Module,
    ) -> None:
        groups = math.gcd(channels_in, channels_out)
        super().__init__(
            channels_in, channels_out, kernel, stride, groups=groups, activation=activation
        )


class Bottleneck(nn.Module):
    """1x1 then 3x3 Conv; adds its input if asked and the channels agree."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        shortcut: bool = True,
        groups: int = 1,
        expansion: float = 0.5,
        *,
        activation: nn.Module,
    ) -> None:
        super().__init__()
        hidden = int(channels_out * expansion)
        self.cv1 = Conv(channels_in, hidden, 1, 1, activation=activation)
        self.cv2 = Conv(hidden, channels_out, 3, 1, groups=groups, activation=activation)
        self.adds_input = shortcut and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  the class says it
        y = self.cv2(self.cv1(x))
        return x + y if self.adds_input else y


def _bottlenecks(
    hidden: int, repeats: int, shortcut: bool, groups: int, activation: nn.Module
) -> nn.Sequential:
    return nn.Sequential(
        *(
            Bottleneck(hidden, hidden, shortcut, groups, 1.0, activation=activation)
            for _ in range(repeats)
        )
    )


class C3(nn.Module):
    """Cross-stage block with three convolutions; the first branch runs the bottlenecks."""

    def __init__(  # noqa: PLR0913  the positional order is the public layer table's
        self,
        channels_in: int,
        channels_out: int,
        repeats: int = 1,
        shortcut: bool = True,
        groups: int = 1,
        expansion: float = 0.5,
        *,
        activation: nn.Module,
    ) -> None:
        super().__init__()
        hidden = int(channels_out * expansion)
        self.cv1 = Conv(channels_in, hidden, activation=activation)
        self.cv2 = Conv(channels_in, hidden, activation=activation)
        self.cv3 = Conv(2 * hidden, channels_out, activation=activation)
        self.m = _bottlenecks(hidden, repeats, shortcut, groups, activation)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  the class says it
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class BottleneckCSP(nn.Module):
    """The cross-stage block of v2 and v3, with plain convolutions before a joint batch norm."""

    def __init__(  # noqa: PLR0913  the positional order is the public layer table's
        self,
        channels_in: int,
        channels_out: int,
        repeats: int = 1,
        shortcut: bool = True,
        groups: int = 1,
        expansion: float = 0.5,
        *,
        activation: nn.Module,
    ) -> None:
        super().__init__()
        hidden = int(channels_out * expansion)
        self.cv1 = Conv(channels_in, hidden, activation=activation)
        self.cv2 = nn.Conv2d(channels_in, hidden, 1, bias=False)
        self.cv3 = nn.Conv2d(hidden, hidden, 1, bias=False)
        self.cv4 = Conv(2 * hidden, channels_out, activation=activation)
        self.bn = _batch_norm(2 * hidden)
        self.act = activation
        self.m = _bottlenecks(hidden, repeats, shortcut, groups, activation)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  the class says it
        y = torch.cat((self.cv3(self.m(self.cv1(x))), self.cv2(x)), 1)
        return self.cv4(self.act(self.bn(y)))


class SPPF(nn.Module):
    """Spatial pyramid pooling by one pool applied three times in a row."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int = 5, *, activation: nn.Module
    ) -> None:
        super().__init__()
        hidden = channels_in // 2
        self.cv1 = Conv(channels_in, hidden, activation=activation)
        self.cv2 = Conv(4 * hidden, channels_out, activation=activation)
        self.m = nn.MaxPool2d(kernel, 1, kernel // 2)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  the class says it
        x = self.cv1(x)
        y1 = self.m(x)
        y2 = self.m(y1)
        return self.cv2(torch.cat((x, y1, y2, self.m(y2)), 1))


class SPP(nn.Module):
    """Spatial pyramid pooling by parallel pools."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernels: Sequence[int] = (5, 9, 13),
        *,
        activation: nn.Module,
    ) -> None:
        super().__init__()
        hidden = channels_in // 2
        self.cv1 = Conv(channels_in, hidden, activation=activation)
        self.cv2 = Conv((len(kernels) + 1) * hidden, channels_out, activation=activation)
        self.m = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in kernels)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  the class says it
        x = self.cv1(x)
        return self.cv2(torch.cat([x, *(pool(x) for pool in self.m)], 1))


class Focus(nn.Module):
    """Space to depth by pixel parity, then a Conv: the stem of v2 to v5."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        activation: nn.Module,
    ) -> None:
        super().__init__()
        self.conv = Conv(4 * channels_in, channels_out, kernel, stride, activation=activation)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  the class says it
        parities = (x[..., r::2, c::2] for c in (0, 1) for r in (0, 1))
        return self.conv(torch.cat(list(parities), 1))


class Concat(nn.Module):
    """Channel concatenation of its sources in their listed order."""

    def forward(self, sources: list[Tensor]) -> Tensor:  # noqa: D102  the class says it
        return torch.cat(sources, 1)
