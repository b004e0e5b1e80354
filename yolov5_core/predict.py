"""Pictures to detections, as the evaluation would find them: letterbox, network, suppression.

A picture's canvas follows from its own size alone, so what is found in it does not depend on the
pictures beside it. Axes: B pictures, N detections.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from yolov5_core.augment import letterbox, resize_longest, to_rgb
from yolov5_core.boxes import rectangular_batches, unletterbox
from yolov5_core.evaluate import autocast, to_float
from yolov5_core.model import Detector, forward_augmented, fuse
from yolov5_core.nms import NmsConfig, non_max_suppression

DETECTION_NMS = NmsConfig(confidence=0.25, iou=0.45, max_detections=1000)  # spec E.2
_PAD = 0.5  # strides around a picture, as in the evaluation, spec C.7
_LEAST_STRIDE = 32  # pixels, as in the evaluation


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictConfig:
    """How pictures are looked at."""

    image_size: int  # pixels, the longer side
    nms: NmsConfig = DETECTION_NMS
    augmented: bool = False  # three passes over flipped and resized copies, spec A.7


@dataclass(slots=True)
class Times:
    """Seconds spent so far, and for how many pictures."""

    pictures: int = 0
    prepare_s: float = 0.0  # resizing, letterbox, to the device
    network_s: float = 0.0
    nms_s: float = 0.0  # suppression, and back to native pixels


@dataclass(frozen=True, slots=True, eq=False)
class _Prepared:
    image: np.ndarray  # (H, W, 3) uint8 RGB, on its canvas
    native_hw: tuple[int, int]
    ratio_pad: tuple[tuple[float, float], tuple[float, float]]  # as boxes.unletterbox wants it


class Predictor:
    """A model that finds things in pictures, with a clock.

    Batch norms are folded into their convolutions; on a GPU the network computes in mixed
    precision, as in the evaluation.
    """

    def __init__(self, model: Detector, config: PredictConfig, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.times = Times()
        self._model = fuse(model).to(device)
        self._stride = max(model.max_stride, _LEAST_STRIDE)

    @torch.inference_mode()
    def predict(self, images_bgr: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What is in some pictures; those whose canvases are alike go through the network together.

        Args:
            images_bgr: B pictures (H, W, 3) uint8 BGR, each of its own size; unchanged.

        Returns:
            B arrays (N, 6) float32: xyxy native pixels, score, class; best first.
        """
        started = time.perf_counter()
        prepared = [prepare(image, self.config.image_size, self._stride) for image in images_bgr]
        self.times.prepare_s += time.perf_counter() - started
        self.times.pictures += len(prepared)
        alike: dict[tuple[int, ...], list[int]] = {}
        for index, picture in enumerate(prepared):
            alike.setdefault(picture.image.shape, []).append(index)
        found: dict[int, np.ndarray] = {}
        for group in alike.values():
            found.update(zip(group, self._found([prepared[i] for i in group]), strict=True))
        return [found[index] for index in range(len(prepared))]

    def _found(self, pictures: Sequence[_Prepared]) -> list[np.ndarray]:
        times, started = self.times, time.perf_counter()
        stacked = torch.from_numpy(np.stack([picture.image for picture in pictures]))
        images = to_float(stacked.permute(0, 3, 1, 2), self.device)
        begun = self._now()
        decoded = self._decoded(images)
        suppressing = self._now()
        kept = non_max_suppression(decoded, self.config.nms)
        height, width = images.shape[2:]
        rows = [
            _native(detections.cpu().numpy(), (height, width), picture)
            for detections, picture in zip(kept, pictures, strict=True)
        ]
        times.prepare_s += begun - started
        times.network_s += suppressing - begun
        times.nms_s += time.perf_counter() - suppressing
        return rows

    def _decoded(self, images: Tensor) -> Tensor:
        with autocast(self.device):
            if self.config.augmented:
                return forward_augmented(self._model, images)
            decoded: Tensor = self._model(images)[0]
            return decoded

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # or the clock would stop before the work is done
        return time.perf_counter()


def prepare(image_bgr: np.ndarray, image_size: int, stride: int) -> _Prepared:
    """A picture on the smallest canvas that the evaluation would give it.

    Args:
        image_bgr: (H, W, 3) uint8, unchanged.
        image_size: Pixels, the longer side.
        stride: Of the model; the sides of the canvas are multiples of it.

    Source: spec C.5, C.6, C.7.
    """
    native_hw = image_bgr.shape[0], image_bgr.shape[1]
    resized = resize_longest(image_bgr, image_size, augment=False)
    shapes_wh = np.array([native_hw[::-1]])
    canvas = rectangular_batches(shapes_wh, 1, image_size, stride, _PAD).shapes_hw[0]
    boxed, geometry = letterbox(resized, (int(canvas[0]), int(canvas[1])), scaleup=False)
    ratio = resized.shape[0] / native_hw[0], resized.shape[1] / native_hw[1]
    return _Prepared(to_rgb(boxed, None), native_hw, (ratio, geometry.pad))


def _native(detections: np.ndarray, canvas_hw: tuple[int, int], picture: _Prepared) -> np.ndarray:
    boxes = unletterbox(detections[:, :4], canvas_hw, picture.native_hw, picture.ratio_pad)
    return np.concatenate((boxes, detections[:, 4:]), 1)
