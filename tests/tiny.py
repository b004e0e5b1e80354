"""The smallest data set and detector that still train like the real ones."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from yolov5_core.architecture import ModelDescription, describe
from yolov5_core.check import scan
from yolov5_core.config import TrainConfig
from yolov5_core.data_yaml import list_images, read_data_yaml
from yolov5_core.dataset import Record
from yolov5_core.start import new_detector
from yolov5_core.synthetic import NAMES, draw_dataset
from yolov5_core.trainer import Trainer

IMAGE_SIZE = 64  # pixels
CPU = torch.device("cpu")


def draw_records(folder: Path, train: int, val: int) -> tuple[tuple[Record, ...], ...]:
    """Draws a data set and checks it: its training and its validation records."""
    data_yaml = draw_dataset(
        folder, train=train, val=val, image_size=IMAGE_SIZE, seed=0, progress=lambda *_: None
    )
    spec = read_data_yaml(data_yaml)
    return tuple(
        scan(list_images(split), len(spec.names)).records for split in (spec.train, spec.val)
    )


def tiny_description(num_classes: int = len(NAMES)) -> ModelDescription:
    """Variant n with a quarter of its channels."""
    return replace(describe("n", num_classes), width_multiple=0.0625)


def tiny_trainer(
    train: Sequence[Record],
    val: Sequence[Record],
    *,
    device: torch.device = CPU,
    num_classes: int = len(NAMES),
    **settings: Any,
) -> Trainer:
    """A trainer of the tiny detector: 3 epochs in batches of 4 without workers, unless told."""
    config = TrainConfig(
        **{"epochs": 3, "batch_size": 4, "image_size": IMAGE_SIZE, "workers": 0, **settings}
    )
    model = new_detector(tiny_description(num_classes), config.seed)
    return Trainer(config, model, train, val, device)
