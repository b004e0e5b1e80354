"""The evaluation pass: a model over a validation set to metrics (spec E.1, E.3)."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

from yolov5_core.boxes import denormalise, unletterbox
from yolov5_core.evaluation import Evaluation, ImageDetections
from yolov5_core.loader import ValidationBatch
from yolov5_core.loss import DetectionLoss
from yolov5_core.metrics import (
    IOU_THRESHOLDS,
    ConfusionMatrix,
    DetectionMetrics,
    average_precision_per_class,
    match,
)
from yolov5_core.model import Detector
from yolov5_core.nms import NmsConfig, non_max_suppression
from yolov5_core.samples import ValidationSample

EVALUATION_NMS = NmsConfig(confidence=0.001, iou=0.6, multi_label=True)  # spec E.1


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision on CUDA, nothing elsewhere."""
    return torch.autocast("cuda") if device.type == "cuda" else nullcontext()


def to_float(images: Tensor, device: torch.device) -> Tensor:
    """(B, 3, H, W) uint8 to float32 in [0, 1] on the device, channels last."""
    moved = images.to(device, non_blocking=True)
    return moved.to(torch.float32, memory_format=torch.channels_last).div_(255)


@torch.inference_mode()
def evaluate(
    model: Detector,
    batches: Iterable[ValidationBatch],
    loss: DetectionLoss,
    device: torch.device,
    progress: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Detects, matches and counts over a validation set.

    Args:
        model: In evaluation mode, on the device; unchanged.
        batches: The set.
        loss: For the validation losses.
        device: Where the model is.
        progress: Called with the number of images of each batch done.

    Source: spec E.1: confidence 0.001, IoU 0.6, matching in native image space.
    """
    total = torch.zeros(3, device=device)
    confusion = ConfusionMatrix(model.detect.nc)
    images: list[ImageDetections] = []
    count = 0
    for batch in batches:
        with autocast(device):
            decoded, raw = model(to_float(batch.images, device))
        total += loss(raw, batch.targets.to(device))[1]
        canvas_hw = (batch.images.shape[2], batch.images.shape[3])
        found = non_max_suppression(decoded, EVALUATION_NMS)
        for sample, detections in zip(batch.samples, found, strict=True):
            image = _in_native_space(sample, detections.cpu().numpy(), canvas_hw)
            confusion.add(image.detections, image.labels)
            images.append(image)
        count += 1
        progress(len(batch.samples))
    box, obj, cls = (total / max(count, 1)).tolist()
    return Evaluation(
        metrics=_metrics(images),
        losses=(box, obj, cls),
        confusion=confusion.matrix,
        images=tuple(images),
    )


def _in_native_space(
    sample: ValidationSample, detections: np.ndarray, canvas_hw: tuple[int, int]
) -> ImageDetections:
    def native(boxes: np.ndarray) -> np.ndarray:
        return unletterbox(boxes, canvas_hw, sample.native_hw, sample.ratio_pad)

    canvas_boxes = denormalise(sample.labels[:, 1:], canvas_hw[1], canvas_hw[0])
    return ImageDetections(
        index=sample.index,
        detections=np.concatenate((native(detections[:, :4]), detections[:, 4:]), 1),
        labels=np.concatenate((sample.labels[:, :1], native(canvas_boxes)), 1),
    )


def _metrics(images: list[ImageDetections]) -> DetectionMetrics:
    correct = [match(image.detections, image.labels) for image in images]
    detections = [image.detections for image in images]
    found = np.concatenate(detections) if detections else np.zeros((0, 6))
    labels = [image.labels[:, 0] for image in images]
    return average_precision_per_class(
        np.concatenate(correct) if correct else np.zeros((0, len(IOU_THRESHOLDS)), dtype=bool),
        found[:, 4],
        found[:, 5],
        np.concatenate(labels) if labels else np.zeros(0),
    )
