"""Target assignment and the three-part detection loss (spec B). Axes: B images, A anchors."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from yolov5_core.config import LossConfig
from yolov5_core.distributed import ALONE
from yolov5_core.iou import paired_iou

_BALANCE_3 = (4.0, 1.0, 0.4)
_BALANCE_N = (4.0, 1.0, 0.25, 0.06, 0.02)
# own cell, then the left, upper, right and lower neighbour, in the order that decides duplicates
_OFFSETS = ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (-0.5, 0.0), (0.0, -0.5))


@dataclass(frozen=True, slots=True)
class Assignment:
    """The targets one level is responsible for, m of them.

    `image`, `anchor`, `row`, `column`, `cls` are (m,) int64; `box` (m, 4) is the offset from the
    cell and the size, `anchor_size` (m, 2), both float32 in grid units.
    """

    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    cls: Tensor
    box: Tensor
    anchor_size: Tensor


def assign(
    anchors: Tensor, grid_sizes: Sequence[tuple[int, int]], targets: Tensor, anchor_t: float
) -> list[Assignment]:
    """Matches targets to anchors and cells of every level.

    Args:
        anchors: (nl, na, 2) in grid units.
        grid_sizes: (ny, nx) of each level.
        targets: (M, 6) image, class, cx, cy, w, h normalised, float32.
        anchor_t: Largest side ratio of a match.

    Returns:
        One Assignment a level, ordered by offset, then anchor, then target.

    Source: spec B.1.
    """
    return [
        _assign_level(anchors[level], size, targets, anchor_t)
        for level, size in enumerate(grid_sizes)
    ]


def _assign_level(
    anchors: Tensor, grid_size: tuple[int, int], targets: Tensor, anchor_t: float
) -> Assignment:
    ny, nx = grid_size
    size = targets.new_tensor([nx, ny])
    xy, wh = targets[:, 2:4] * size, targets[:, 4:6] * size
    ratio = wh[None] / anchors[:, None]  # (na, M, 2)
    matches = torch.maximum(ratio, 1 / ratio).amax(2) < anchor_t
    anchor, target = matches.nonzero(as_tuple=True)  # anchor outermost, then target

    centre = xy[target]
    opposite = size - centre  # the same place seen from the lower right corner
    left_top = (centre % 1 < 0.5) & (centre > 1)
    right_bottom = (opposite % 1 < 0.5) & (opposite > 1)
    own = torch.ones_like(left_top[:, :1])
    kinds = torch.cat((own, left_top, right_bottom), 1).T  # (5, m)
    kind, match = kinds.nonzero(as_tuple=True)
    cell = (centre[match] - targets.new_tensor(_OFFSETS)[kind]).long()
    column, row = cell[:, 0].clamp(0, nx - 1), cell[:, 1].clamp(0, ny - 1)

    anchor, target = anchor[match], target[match]
    offset = xy[target] - torch.stack((column, row), 1)
    return Assignment(
        image=targets[target, 0].long(),
        anchor=anchor,
        row=row,
        column=column,
        cls=targets[target, 1].long(),
        box=torch.cat((offset, wh[target]), 1),
        anchor_size=anchors[anchor],
    )


def sent(found: Sequence[Assignment], device: torch.device) -> list[Assignment]:
    """The assignments on a device, in two messages and without waiting for it."""
    counts = [len(level.image) for level in found]
    whole = torch.cat(
        [torch.stack((f.image, f.anchor, f.row, f.column, f.cls)) for f in found], dim=1
    )
    real = torch.cat([torch.cat((f.box, f.anchor_size), 1) for f in found])
    if device.type == "cuda":  # only page-locked memory is copied while we go on
        whole, real = whole.pin_memory(), real.pin_memory()
    whole, real = whole.to(device, non_blocking=True), real.to(device, non_blocking=True)
    levels = zip(whole.split_with_sizes(counts, 1), real.split_with_sizes(counts), strict=True)
    return [_unpacked(*level) for level in levels]


def _unpacked(whole: Tensor, real: Tensor) -> Assignment:
    image, anchor, row, column, cls = whole.unbind(0)
    return Assignment(image, anchor, row, column, cls, box=real[:, :4], anchor_size=real[:, 4:])


class DetectionLoss:
    """Box, objectness and class loss of one model.

    Who is responsible for what is worked out on the host, where the targets come from: on a GPU
    every count of matches would have to be waited for.

    Attributes:
        balance: Objectness weight of each level; moves only with `autobalance`.
        group: Who else holds parts of the batch: a mean is one over all of it, and what a rank
            returns is its part of the sum.
    """

    def __init__(
        self, anchors: Tensor, strides: Tensor, num_classes: int, config: LossConfig
    ) -> None:
        self.anchors = anchors.cpu()
        self.num_classes = num_classes
        self.config = config
        levels = len(anchors)
        self.balance = list(_BALANCE_3 if levels == 3 else _BALANCE_N[:levels])
        self.group = ALONE
        self._middle = [int(s) for s in strides].index(16) if config.autobalance else 0

    def __call__(self, raw: Sequence[Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of one batch.

        Args:
            raw: nl tensors (B, A, ny, nx, 5 + nc) of logits, any float dtype.
            targets: (M, 6) image, class, cx, cy, w, h normalised, float32; best on the host.

        Returns:
            (total (1,) already times B, items (3,) detached: box, objectness, class). In a group
            B is that of all ranks.
        """
        c, images = self.config, raw[0].shape[0]
        sizes = [(p.shape[2], p.shape[3]) for p in raw]
        device = raw[0].device
        box = obj = cls = torch.zeros(1, device=device)
        assigned = sent(assign(self.anchors, sizes, targets.cpu(), c.anchor_t), device)
        matched = [len(found.image) for found in assigned]
        *shares, of_images = self.group.shares([*matched, images], device)
        for level, found in enumerate(assigned):
            logits = raw[level].float()  # fp16 outputs: sigmoid and box arithmetic want fp32
            objectness = torch.zeros_like(logits[..., 0])
            if len(found.image):
                chosen = logits[found.image, found.anchor, found.row, found.column]
                iou = paired_iou(decode_in_cell(chosen, found.anchor_size), found.box, c.iou)
                box = box + (1 - iou).mean() * shares[level]
                _fill_last(objectness, found, iou.detach().clamp(min=0))
                if self.num_classes > 1:
                    cls = cls + self._class_loss(chosen[:, 5:], found.cls) * shares[level]
            level_loss = self._bce(logits[..., 4], objectness, c.obj_pw) * of_images
            obj = obj + level_loss * self.balance[level]
            if c.autobalance:
                whole = self.group.sum(level_loss).item()
                self.balance[level] = self.balance[level] * 0.9999 + 0.0001 / whole
        if c.autobalance:
            self.balance = [b / self.balance[self._middle] for b in self.balance]
        items = torch.cat((box * c.box, obj * c.obj, cls * c.cls))
        return items.sum().view(1) * self.group.total(images), items.detach()

    def fixed(self) -> "DetectionLoss":
        """The same loss with its balance held: looking at a validation set must not move it.

        It is that of one process alone, whoever else trains.
        """
        held = copy.copy(self)
        held.group = ALONE
        held.config = replace(self.config, autobalance=False)
        return held

    def _class_loss(self, logits: Tensor, cls: Tensor) -> Tensor:
        smooth = 0.5 * self.config.label_smoothing
        target = torch.full_like(logits, smooth)
        target[torch.arange(len(cls), device=cls.device), cls] = 1.0 - smooth
        return self._bce(logits, target, self.config.cls_pw)

    def _bce(self, logits: Tensor, target: Tensor, positive_weight: float) -> Tensor:
        """Mean binary cross entropy, focal if asked for; 0 of nothing.

        Source: focal loss arXiv:1708.02002 eq. 5 for soft targets; spec B.2.
        """
        if not logits.numel():  # a rank without pictures; it must have a gradient all the same
            return logits.sum()
        weight = logits.new_tensor([positive_weight]) if positive_weight != 1.0 else None
        gamma = self.config.fl_gamma
        if gamma == 0.0:
            return F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight)
        bce = F.binary_cross_entropy_with_logits(
            logits, target, pos_weight=weight, reduction="none"
        )
        p = logits.sigmoid()
        p_true = target * p + (1 - target) * (1 - p)
        alpha = target * 0.25 + (1 - target) * 0.75
        return (bce * alpha * (1 - p_true) ** gamma).mean()


def decode_in_cell(logits: Tensor, anchor_size: Tensor) -> Tensor:
    """Boxes relative to their cell, (m, 4) cxcywh in grid units, from (m, 5 + nc) logits."""
    p = logits[:, :4].sigmoid()
    return torch.cat((p[:, :2] * 2 - 0.5, (p[:, 2:] * 2) ** 2 * anchor_size), 1)


def _fill_last(objectness: Tensor, found: Assignment, iou: Tensor) -> None:
    """Writes each cell's IoU; of several assignments to one cell the last wins, on every device.

    Plain indexed assignment leaves the winner undefined on a GPU (spec H15).
    """
    _, A, ny, nx = objectness.shape
    cell = ((found.image * A + found.anchor) * ny + found.row) * nx + found.column
    order = torch.arange(len(cell), device=cell.device)
    last = torch.full((objectness.numel(),), -1, device=cell.device)
    last.scatter_reduce_(0, cell, order, "amax")
    winner = last[cell]
    objectness.view(-1)[cell] = iou[winner]  # equal values for equal cells: any order will do
