"""Training as one writes it first: what the benchmarks compare our step and epoch with.

The same model, loss, schedule and samples; but pictures as contiguous float planes, weights in
torch's usual order, an optimizer and an average that go tensor by tensor, suppression picture by
picture in NumPy, pictures decoded anew each time. Memory as the allocator hands it out.
"""

import copy
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from yolov5_core.boxes import denormalise, unletterbox
from yolov5_core.ema import decay
from yolov5_core.evaluation import ImageDetections, detection_metrics
from yolov5_core.loader import Batch, ValidationBatch
from yolov5_core.metrics import DetectionMetrics
from yolov5_core.optimizer import apply_settings, parameter_groups
from yolov5_core.samples import ValidationSample
from yolov5_core.schedule import scaled_weight_decay, settings_at
from yolov5_core.trainer import Trainer, loss_of

_GRADIENT_NORM = 10.0


class PlainTrainer:
    """A model in training, on the CPU."""

    def __init__(self, like: Trainer) -> None:
        """Starts where another trainer does, with a model of its own."""
        config = like.config
        self.model = copy.deepcopy(like.model).to(memory_format=torch.contiguous_format).train()
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.schedule = like.schedule
        groups = parameter_groups(self.model)
        decays = (0.0, scaled_weight_decay(config.hyp.weight_decay, config.batch_size), 0.0)
        self.optimizer = torch.optim.SGD(
            [{"params": p, "weight_decay": d} for p, d in zip(groups, decays, strict=True)],
            lr=config.hyp.lr0,
            momentum=config.hyp.momentum,
            nesterov=True,
            foreach=False,
        )
        self.loss = loss_of(self.model, config)
        self.updates = 0
        self.step = 0
        self.last_update = -1

    def train_step(self, batch: Batch, epoch: int, batches: int) -> None:
        """One step, and an update where one is due.

        Args:
            batch: uint8 pictures.
            epoch: From 0.
            batches: In an epoch.

        Raises:
            ValueError: The loss is no number.
        """
        settings = settings_at(self.step, epoch, batches, self.schedule)
        apply_settings(self.optimizer, settings)
        total, items = self.loss(self.model(to_float(batch.images)), batch.targets)
        total.backward()  # type: ignore[no-untyped-call]
        if not all(torch.isfinite(item) for item in items):
            raise ValueError("the loss is not finite")
        if self.step - self.last_update >= settings.accumulate:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), _GRADIENT_NORM, foreach=False)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self._average()
            self.last_update = self.step
        self.step += 1

    @torch.no_grad()
    def _average(self) -> None:
        self.updates += 1
        d = decay(self.updates)
        new = self.model.state_dict()
        for name, own in self.average.state_dict().items():
            if own.is_floating_point():
                own.mul_(d)
                own.add_((1 - d) * new[name])

    @torch.inference_mode()
    def evaluate(self, batches: Iterable[ValidationBatch]) -> DetectionMetrics:
        """The average over a validation set; without a confusion matrix, which ours has besides."""
        loss, images = self.loss.fixed(), list[ImageDetections]()
        for batch in batches:
            decoded, raw = self.average(to_float(batch.images))
            loss(raw, batch.targets)
            found = non_max_suppression(decoded, 0.001, 0.6, 300)
            images += [
                _native(sample, rows, (batch.images.shape[2], batch.images.shape[3]))
                for sample, rows in zip(batch.samples, found, strict=True)
            ]
        return detection_metrics(images)


def _native(
    sample: ValidationSample, rows: np.ndarray, canvas_hw: tuple[int, int]
) -> ImageDetections:
    def native(boxes: np.ndarray) -> np.ndarray:
        return unletterbox(boxes, canvas_hw, sample.native_hw, sample.ratio_pad)

    labels = denormalise(sample.labels[:, 1:], canvas_hw[1], canvas_hw[0])
    return ImageDetections(
        index=sample.index,
        detections=np.concatenate((native(rows[:, :4]), rows[:, 4:]), 1),
        labels=np.concatenate((sample.labels[:, :1], native(labels)), 1),
    )


def to_float(images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 to float32 in [0, 1], plane by plane."""
    return images.contiguous().float() / 255


def non_max_suppression(
    predictions: Tensor, confidence: float, iou: float, most: int
) -> list[np.ndarray]:
    """Greedy suppression of every class above `confidence`, picture by picture, box by box.

    Args:
        predictions: (B, N, 5 + C) decoded, cxcywh pixels.
        confidence: Score and objectness must be larger.
        iou: A box goes when its overlap with a kept one of its class is larger.
        most: Boxes kept of a picture.

    Returns:
        Per picture (n, 6) xyxy pixels, score, class, best first.
    """
    return [_suppress(_candidates(p, confidence), iou, most) for p in predictions.numpy()]


def _candidates(rows: np.ndarray, confidence: float) -> np.ndarray:
    rows = rows[rows[:, 4] > confidence]
    scores = rows[:, 5:] * rows[:, 4:5]
    row, cls = np.nonzero(scores > confidence)
    half = rows[row, 2:4] / 2
    corners = (rows[row, :2] - half, rows[row, :2] + half)
    found = np.concatenate((*corners, scores[row, cls, None], cls[:, None]), 1)
    return found[np.argsort(-found[:, 4], kind="stable")][:30_000]


def _suppress(found: np.ndarray, limit: float, most: int) -> np.ndarray:
    areas = (found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1])
    order, kept = np.arange(len(found)), list[int]()
    while len(order) and len(kept) < most:
        best, order = order[0], order[1:]
        kept.append(int(best))
        low = np.maximum(found[best, :2], found[order, :2])
        high = np.minimum(found[best, 2:4], found[order, 2:4])
        inner = np.prod(np.clip(high - low, 0, None), axis=1)
        overlap = inner / (areas[best] + areas[order] - inner + 1e-7)
        order = order[(overlap <= limit) | (found[order, 5] != found[best, 5])]
    return found[np.array(kept, np.int64)]
