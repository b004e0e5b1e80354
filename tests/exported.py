"""Detectors worth exporting: with statistics of real layers, and something to detect."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.tiny import tiny_description
from yolov5_core import checkpoint
from yolov5_core.architecture import ModelDescription
from yolov5_core.model import Detector
from yolov5_core.pictures import encode
from yolov5_core.start import new_detector

NAMES = ["cat", "dog", "bird"]


@torch.no_grad()
def lively(description: ModelDescription) -> Detector:
    """Random weights, batch norms as after some training, many scores above a half."""
    model = new_detector(description, seed=3).train()
    rng = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.5
            module.weight.copy_(torch.rand(module.weight.shape, generator=rng) + 0.5)
            module.bias.copy_(torch.randn(module.bias.shape, generator=rng) * 0.3)
    for _ in range(3):
        model(torch.rand(4, 3, 64, 64, generator=rng))
    for conv in model.detect.m:
        conv.weight.mul_(4)
        conv.bias.copy_(torch.randn(conv.bias.shape, generator=rng) + 1)
    return model.eval()


def lively_checkpoint(path: Path, description: ModelDescription | None = None) -> Path:
    """Such a detector as a checkpoint of ours."""
    model = lively(description or tiny_description(len(NAMES)))
    payload: dict[str, Any] = {
        "epoch": -1,
        "description": model.description.to_mapping(),
        "model": model.state_dict(),
        "names": NAMES,
        "nc": len(NAMES),
    }
    checkpoint.save(payload, path)
    return path


def noise(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Pictures (H, W, 3) uint8."""
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (count, height, width, 3), np.uint8))


def write_pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number, image in enumerate(noise(count)):
        (folder / f"{number}.png").write_bytes(encode(image, ".png"))
    return folder


def load_torchscript(path: Path, extra: dict[str, str] | None = None) -> Any:
    """As its users do, without the advice of torch to use another format."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(str(path), _extra_files=extra)
