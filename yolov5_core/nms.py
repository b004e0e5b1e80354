"""Non-maximum suppression: decoded predictions of the network to detections.

Axes: B images, N predictions of an image, n detections kept. Rows of a prediction are
cx, cy, w, h in pixels, objectness, then one probability per class.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# Candidates tested together: large enough to amortise a NumPy call, small enough that the
# (kept, chunk) temporaries stay in the processor's cache. 512 measured the same within noise.
_CHUNK = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class NmsConfig:
    """What survives suppression.

    Source: spec E.2; defaults are those of detection.
    """

    confidence: float = 0.25  # score and objectness must be larger
    iou: float = 0.45  # a box is removed when its IoU with a kept one is larger
    multi_label: bool = False  # every class above confidence, not only the best one
    agnostic: bool = False  # boxes of different classes suppress each other too
    classes: tuple[int, ...] | None = None  # None: all classes
    max_detections: int = 300  # per image
    max_candidates: int = 30_000  # per image, before suppression

    def __post_init__(self) -> None:
        """Refuses thresholds outside [0, 1] and limits below 1."""
        for name in ("confidence", "iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"NmsConfig.{name}={getattr(self, name)}: must be within [0, 1]")
        for name in ("max_detections", "max_candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"NmsConfig.{name}={getattr(self, name)}: must be at least 1")


def non_max_suppression(
    predictions: Tensor, config: NmsConfig, apriori_labels: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """Keeps the best box of every object, image by image.

    Greedy in order of score; equal scores keep the order of the candidates (row, then class).
    Classes are compared, not moved apart by a coordinate offset, which would cost small boxes
    their float32 precision. There is no time limit. Rows with a non-finite box are dropped.

    Args:
        predictions: (B, N, 5 + C) decoded, cxcywh pixels, any float dtype, any device.
        config: thresholds and limits.
        apriori_labels: per image (m, 5) class, cxcywh pixels: boxes known beforehand, which join
            the candidates with score 1; None for none.

    Returns:
        Per image (n, 6) float32: xyxy pixels (unclipped), score, class; best score first.

    Source: spec E.2, fixes of H.3.
    """
    outputs = []
    for index, image_predictions in enumerate(predictions):
        rows = image_predictions[
            (image_predictions[:, 4] > config.confidence)
            & image_predictions[:, :4].isfinite().all(1)
        ].float()
        if apriori_labels is not None and len(apriori_labels[index]):
            rows = torch.cat([rows, _apriori_rows(apriori_labels[index], rows)])
        candidates = _candidates(rows, config)
        # The suppression is sequential: on a GPU it would wait for the device at every step.
        host = candidates.cpu().numpy()
        classes = np.zeros_like(host[:, 5]) if config.agnostic else host[:, 5]
        kept = _suppress(host[:, :4], classes, config.iou, config.max_detections)
        outputs.append(candidates[torch.from_numpy(kept).to(candidates.device)])
    return outputs


def _apriori_rows(labels: Tensor, like: Tensor) -> Tensor:
    """Prediction rows with objectness 1 and a one-hot class."""
    rows = like.new_zeros(len(labels), like.shape[1])
    rows[:, :4] = labels[:, 1:5]
    rows[:, 4] = 1
    rows[torch.arange(len(labels)), 5 + labels[:, 0].long()] = 1
    return rows


def _candidates(rows: Tensor, config: NmsConfig) -> Tensor:
    """(n, 6) xyxy, score, class; best first, at most max_candidates."""
    scores = rows[:, 5:] * rows[:, 4:5]  # (N, C)
    if config.multi_label and scores.shape[1] > 1:
        classes = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    else:
        scores, classes = scores.max(1, keepdim=True)  # (N, 1)
    allowed = scores > config.confidence
    if config.classes is not None:
        allowed &= torch.isin(classes, torch.tensor(config.classes, device=classes.device))
    if int(allowed.sum()) > config.max_candidates:  # cheaper than sorting millions of pairs
        flat = scores.where(allowed, 0).flatten()
        allowed &= scores >= flat.kthvalue(len(flat) - config.max_candidates + 1).values
    row, column = allowed.nonzero(as_tuple=True)
    score, cls = scores[row, column], classes[row, column]
    order = score.argsort(descending=True, stable=True)[: config.max_candidates]
    boxes = rows[row[order], :4]
    half = boxes[:, 2:] / 2
    corners = (boxes[:, :2] - half, boxes[:, :2] + half)
    return torch.cat([*corners, score[order, None], cls[order, None].to(score.dtype)], 1)


def _suppress(
    boxes: npt.NDArray[np.float32],
    classes: npt.NDArray[np.float32],
    threshold: float,
    max_kept: int,
) -> npt.NDArray[np.int64]:
    """Indices of the kept boxes, ascending; boxes (n, 4) xyxy in order of preference.

    A chunk is first cleared of what the boxes kept so far suppress, then resolved within; the
    boxes behind the one that fills max_kept are never looked at.
    """
    kept = np.empty(0, dtype=np.int64)
    for start in range(0, len(boxes), _CHUNK):
        chunk = np.arange(start, min(start + _CHUNK, len(boxes)))
        hit = _overlap(boxes[kept], classes[kept], boxes[chunk], classes[chunk], threshold)
        alive = chunk[~hit.any(0)]
        pairs = _overlap(boxes[alive], classes[alive], boxes[alive], classes[alive], threshold)
        removed = np.zeros(len(alive), dtype=bool)
        for i, suppressed in enumerate(pairs):
            if not removed[i]:
                removed[i + 1 :] |= suppressed[i + 1 :]
        kept = np.concatenate([kept, alive[~removed]])
        if len(kept) >= max_kept:
            break
    return kept[:max_kept]


def _overlap(
    a: npt.NDArray[np.float32],
    classes_a: npt.NDArray[np.float32],
    b: npt.NDArray[np.float32],
    classes_b: npt.NDArray[np.float32],
    threshold: float,
) -> npt.NDArray[np.bool_]:
    """(N, M) whether the classes are equal and the IoU (without eps) is larger than threshold.

    The division makes an IoU of exactly the threshold compare equal to it; boxes without area
    give 0/0, which is not larger than anything.
    """
    if not len(a) or not len(b):
        return np.zeros((len(a), len(b)), dtype=bool)
    ax1, ay1, ax2, ay2 = a.T[:, :, None]
    bx1, by1, bx2, by2 = b.T
    width = np.minimum(ax2, bx2)
    width -= np.maximum(ax1, bx1)
    height = np.minimum(ay2, by2)
    height -= np.maximum(ay1, by1)
    inter = np.maximum(width, 0, out=width)
    inter *= np.maximum(height, 0, out=height)
    union = np.add((ax2 - ax1) * (ay2 - ay1), (bx2 - bx1) * (by2 - by1), out=height)
    union -= inter
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        inter /= union
    larger: npt.NDArray[np.bool_] = inter > threshold
    larger &= classes_a[:, None] == classes_b
    return larger
