"""The largest batch whose training step fits a device, from the memory of a few steps."""

import copy
import logging
from collections.abc import Callable
from typing import Protocol

import torch

from yolov5_core.config import TrainConfig
from yolov5_core.loss import DetectionLoss
from yolov5_core.model import Detector
from yolov5_core.step_policy import StepPolicy, autocast

log = logging.getLogger(__name__)

_SHARE = 0.9  # of the free memory: the rest is for the pieces between blocks
_BOXES = 16  # a picture, in the probe
_MULTIPLE = 8  # pictures; what fast kernels on half precision like
_LARGEST_SCALE = 1.5  # of multi_scale
_QUAD = 4  # samples that make one picture of twice the side


class MemoryMeter(Protocol):
    """What a device says of its memory."""

    def free(self) -> int:
        """Bytes that can still be taken."""

    def reset(self) -> None:
        """Forgets the peak."""

    def peak(self) -> int:
        """The most bytes taken at once since the reset."""


class CudaMeter:
    """The memory of a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def free(self) -> int:
        """Bytes that can still be taken, with those that torch holds and does not use."""
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(self.device)[0])

    def reset(self) -> None:
        """Forgets the peak."""
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int:
        """The most bytes taken at once since the reset."""
        return int(torch.cuda.max_memory_allocated(self.device))


def largest_batch(
    model: Detector,
    loss: DetectionLoss,
    config: TrainConfig,
    policy: StepPolicy,
    meter: MemoryMeter,
    most: int,
) -> int:
    """The largest batch size that fits, a multiple of 8 where 8 fit; the model is unchanged.

    Args:
        model: On the device.
        loss: Its loss.
        config: Of the run; its batch size does not count.
        policy: How steps are computed.
        meter: Of the device.
        most: Pictures in the training set: a batch has no more.

    Returns:
        Samples of a batch; with quad a multiple of 4. At least 1, or 4, even if that is too large:
        such a run has a remedy of its own, batches in parts.
    """
    scale = _LARGEST_SCALE if config.multi_scale else 1.0
    stride = max(model.max_stride, 32)
    side = int(config.image_size * scale * (2 if config.quad else 1)) // stride * stride
    free = int(_SHARE * meter.free())
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    moments = 1 if config.optimizer == "sgd" else 2
    group = _QUAD if config.quad else 1
    room = free - weights * (1 + moments)  # the average, and what the optimizer remembers

    def needs(pictures: int) -> int | None:
        probe = copy.deepcopy(model).train()
        meter.reset()
        try:
            _step(probe, loss.fixed(), (pictures, 3, side, side), policy)
        except torch.OutOfMemoryError:
            return None
        return meter.peak()

    pictures = _largest(needs, room, max(most // group, 1))
    log.info("auto_batch: %d pictures of %d pixels fit in %.1f GB of free memory",
             pictures, side, free / _SHARE / 1e9)  # fmt: skip
    return pictures * group


def _largest(needs: Callable[[int], int | None], room: int, most: int) -> int:
    """The largest number of pictures whose need is within the room, from a line through two.

    A step may still need more than the line says, for kernels are chosen by size: so it is tried.
    """
    one, two = needs(1), needs(2)
    if one is None or two is None or two > room:
        return 1
    fitting = 1 + (room - one) // max(two - one, 1)
    guess = most if fitting >= most else _rounded(fitting)
    while guess > 1:
        need = needs(guess)
        if need is not None and need <= room:
            return guess
        guess = _rounded(min(guess - 1, int(guess * 0.9)))
    return 1


def _rounded(pictures: int) -> int:
    return pictures if pictures < _MULTIPLE else pictures // _MULTIPLE * _MULTIPLE


def _step(
    model: Detector, loss: DetectionLoss, shape: tuple[int, int, int, int], policy: StepPolicy
) -> None:
    device = model.detect.anchors.device
    images = torch.zeros(shape, device=device).to(memory_format=torch.channels_last)
    count = len(images) * _BOXES
    targets = torch.full((count, 6), 0.5)
    targets[:, 0], targets[:, 1] = torch.arange(count) // _BOXES, 0
    targets[:, 4:] = torch.linspace(0.05, 0.5, count)[:, None]
    with autocast(policy, device):
        raw = model(images)
    loss(raw, targets)[0].backward()  # type: ignore[no-untyped-call]
