"""Element-wise IoU variants with gradients, for the loss (spec B.3). Boxes are (N, 4) cxcywh."""

import math

import torch
from torch import Tensor

from yolov5_core.config import IouKind

_EPS = 1e-7
_SMALLEST = 1e-9  # a side: extreme logits give boxes of size 0, and 0 / 0 would be a NaN loss


def paired_iou(predicted: Tensor, target: Tensor, kind: IouKind) -> Tensor:
    """Generalised or complete IoU of each predicted box with its own target.

    Args:
        predicted: (N, 4) cx, cy, w, h, float32; gradients flow through it.
        target: (N, 4) cx, cy, w, h, same unit.
        kind: "ciou" or "giou".

    Returns:
        (N,) at most 1; below 0 for boxes far apart.

    Source: GIoU arXiv:1902.09630 eq. 1; CIoU arXiv:1911.08287 eq. 10; spec B.3.
    """
    px, py, pw, ph = predicted.unbind(-1)
    tx, ty, tw, th = target.unbind(-1)
    left, right = torch.minimum(px - pw / 2, tx - tw / 2), torch.maximum(px + pw / 2, tx + tw / 2)
    top, bottom = torch.minimum(py - ph / 2, ty - th / 2), torch.maximum(py + ph / 2, ty + th / 2)
    inner_w = torch.minimum(px + pw / 2, tx + tw / 2) - torch.maximum(px - pw / 2, tx - tw / 2)
    inner_h = torch.minimum(py + ph / 2, ty + th / 2) - torch.maximum(py - ph / 2, ty - th / 2)
    inter = inner_w.clamp(min=0) * inner_h.clamp(min=0)
    union = pw * ph + tw * th - inter + _EPS
    iou = inter / union
    hull_w, hull_h = right - left, bottom - top
    if kind == "giou":
        hull = hull_w * hull_h + _EPS
        return iou - (hull - union) / hull
    diagonal = hull_w**2 + hull_h**2 + _EPS
    distance = (px - tx) ** 2 + (py - ty) ** 2
    aspect = pw.clamp(min=_SMALLEST) / ph.clamp(min=_SMALLEST)
    v = (4 / math.pi**2) * (torch.atan(tw / th) - torch.atan(aspect)) ** 2
    with torch.no_grad():  # alpha weighs the aspect term and carries no gradient
        alpha = v / (1 - iou + v + _EPS)
    return iou - distance / diagonal - alpha * v
