"""The evaluation pass: a model over a validation set to metrics (spec E.1, E.3)."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

from yolov5_core.boxes import denormalise, unletterbox
from yolov5_core.evaluation import Evaluation, ImageDetections, detection_metrics, stacked
from yolov5_core.loader import ValidationBatch
from yolov5_core.loss import DetectionLoss
from yolov5_core.metrics import ConfusionMatrix
from yolov5_core.model import Detector, forward_augmented
from yolov5_core.nms import NmsConfig, non_max_suppression
from yolov5_core.samples import ValidationSample

# Images (B, 3, H, W) and their targets to decoded predictions (B, N, 5 + nc) and losses (3,).
Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

EVALUATION_NMS = NmsConfig(confidence=0.001, iou=0.6, multi_label=True)  # spec E.1


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision on CUDA, nothing elsewhere."""
    return torch.autocast("cuda") if device.type == "cuda" else nullcontext()


def to_float(images: Tensor, device: torch.device) -> Tensor:
    """(B, 3, H, W) uint8 to float32 in [0, 1] on the device, channels last."""
    moved = images.to(device, non_blocking=True)
    return moved.to(torch.float32, memory_format=torch.channels_last).div_(255)


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

    def predict(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(device):
            decoded, raw = model(images)
        return decoded, loss(raw, targets)[1]

    return _evaluate(predict, model.detect.nc, batches, device, progress)


def evaluate_augmented(
    model: Detector,
    batches: Iterable[ValidationBatch],
    device: torch.device,
    progress: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """The same with test-time augmentation: three passes over each picture, joined before NMS.

    The losses are NaN: they are those of one output of the network, and there are three.

    Source: spec A.7.
    """
    no_losses = torch.full((3,), torch.nan, device=device)

    def predict(images: Tensor, _targets: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(device):
            return forward_augmented(model, images), no_losses

    return _evaluate(predict, model.detect.nc, batches, device, progress)


@torch.inference_mode()
def _evaluate(
    predict: Predict,
    num_classes: int,
    batches: Iterable[ValidationBatch],
    device: torch.device,
    progress: Callable[[int], None],
) -> Evaluation:
    total = torch.zeros(3, device=device)
    images: list[ImageDetections] = []
    count = 0
    for batch in batches:
        decoded, losses = predict(to_float(batch.images, device), batch.targets.to(device))
        total += losses
        canvas_hw = (batch.images.shape[2], batch.images.shape[3])
        found = non_max_suppression(decoded, EVALUATION_NMS)
        for sample, detections in zip(batch.samples, found, strict=True):
            images.append(_in_native_space(sample, detections.cpu().numpy(), canvas_hw))
        count += 1
        progress(len(batch.samples))
    box, obj, cls = (total / max(count, 1)).tolist()
    confusion = ConfusionMatrix(num_classes)
    confusion.add_all(*stacked(images))
    return Evaluation(
        metrics=detection_metrics(images),
        losses=(box, obj, cls),
        confusion=confusion.matrix,
        images=tuple(images),
    )


def _in_native_space(
    sample: ValidationSample, detections: np.ndarray, canvas_hw: tuple[int, int]
) -> ImageDetections:
    def native(boxes: np.ndarray) -> np.ndarray:
        return unletterbox(boxes, canvas_hw, sample.native_hw, sample.ratio_pad)

    height, width = sample.native_hw
    labels = denormalise(sample.labels[:, 1:], canvas_hw[1], canvas_hw[0])
    crowd = denormalise(sample.crowd[:, 1:], width, height)
    return ImageDetections(
        index=sample.index,
        detections=np.concatenate((native(detections[:, :4]), detections[:, 4:]), 1),
        labels=np.concatenate((sample.labels[:, :1], native(labels)), 1),
        crowd=np.concatenate((sample.crowd[:, :1], crowd), 1),
    )
