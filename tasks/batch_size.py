"""The batch size of a run that leaves it to the GPU."""

import logging
from dataclasses import replace

import torch

from yolov5_core.auto_batch import CudaMeter, MemoryMeter, largest_batch
from yolov5_core.config import TrainConfig
from yolov5_core.model import Detector
from yolov5_core.step_policy import usual_policy
from yolov5_core.trainer import loss_of

log = logging.getLogger(__name__)


def with_batch_size(
    training: TrainConfig,
    model: Detector,
    device: torch.device,
    pictures: int,
    meter: MemoryMeter | None = None,
) -> TrainConfig:
    """The settings with the largest batch that fits the device; on a CPU as they are.

    Args:
        training: Settings of the run.
        model: To be trained.
        device: Where; the model is on it afterwards.
        pictures: In the training set: a batch has no more.
        meter: Of the device's memory; None: of its GPU, if it is one.
    """
    if meter is None:
        if device.type == "cpu":
            log.info("auto_batch: no GPU, batch_size=%d holds", training.batch_size)
            return training
        meter = CudaMeter(device)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    policy = usual_policy(device, training.precision)
    loss = loss_of(model, training)
    found = largest_batch(model, loss, training, policy, meter, pictures)
    return replace(training, batch_size=found)
