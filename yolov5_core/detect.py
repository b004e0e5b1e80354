"""The detection head: one 1x1 convolution a level, and the decoding of its outputs (spec A.5)."""

import math

import torch
from torch import Tensor, nn


class Detect(nn.Module):
    """Anchor head over nl levels.

    Attributes:
        anchors: Buffer (nl, na, 2), width and height in units of the level's stride.
        stride: (nl,) pixels a cell, float32, not a buffer (it is architecture, not weights).
    """

    anchors: Tensor

    def __init__(
        self,
        num_classes: int,
        anchors_pixels: list[tuple[float, ...]],
        strides: list[float],
        channels: list[int],
    ) -> None:
        super().__init__()
        self.nc = num_classes
        self.no = num_classes + 5
        self.nl, self.na = len(strides), len(anchors_pixels[0]) // 2
        self.stride = torch.tensor(strides, device="cpu")
        anchors = torch.tensor(anchors_pixels).view(self.nl, self.na, 2)
        self.register_buffer("anchors", anchors / torch.tensor(strides).view(-1, 1, 1))
        self.m = nn.ModuleList(nn.Conv2d(c, self.no * self.na, 1) for c in channels)
        self._initialise_biases()

    @torch.no_grad()
    def _initialise_biases(self) -> None:
        # about 8 objects in a 640 pixel image and equal class shares: early losses stay small
        for conv, stride in zip(self.m, self.stride.tolist(), strict=True):
            bias = conv.bias.view(self.na, self.no)  # type: ignore[operator]
            bias[:, 4] += math.log(8 / (640 / stride) ** 2)
            bias[:, 5:] += math.log(0.6 / (self.nc - 0.99999))

    def forward(self, features: list[Tensor]) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Raw outputs, and while evaluating also the decoded boxes.

        Args:
            features: nl tensors (B, C_l, ny, nx).

        Returns:
            Training: raw list of (B, na, ny, nx, 5 + nc) logits. Evaluation: (decoded, raw),
            decoded (B, sum of na*ny*nx, 5 + nc): cx, cy, w, h in input pixels, then probabilities.
        """
        raw = []
        for conv, x in zip(self.m, features, strict=True):
            B, _, ny, nx = x.shape
            y = conv(x).view(B, self.na, self.no, ny, nx)
            raw.append(y.permute(0, 1, 3, 4, 2).contiguous())
        if self.training:
            return raw
        return torch.cat([self._decode(level, y) for level, y in enumerate(raw)], 1), raw

    def _decode(self, level: int, raw: Tensor) -> Tensor:
        B, na, ny, nx, no = raw.shape
        stride = float(self.stride[level])
        rows = torch.arange(ny, device=raw.device, dtype=torch.float32)
        columns = torch.arange(nx, device=raw.device, dtype=torch.float32)
        grid_y, grid_x = torch.meshgrid(rows, columns, indexing="ij")
        grid = torch.stack((grid_x, grid_y), -1)  # (ny, nx, 2)
        anchors = (self.anchors[level] * stride).view(1, na, 1, 1, 2)
        p = raw.to(torch.promote_types(raw.dtype, torch.float32)).sigmoid()
        xy = (2 * p[..., :2] - 0.5 + grid) * stride  # half a cell beyond: neighbours may claim it
        wh = (2 * p[..., 2:4]) ** 2 * anchors
        return torch.cat((xy, wh, p[..., 4:]), -1).view(B, na * ny * nx, no)
