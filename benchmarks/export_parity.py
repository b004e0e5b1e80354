"""How far exported models are from their originals, on 20 real pictures.

    python -m benchmarks.export_parity --data path/to/data.yaml
    python -m benchmarks.export_parity --data pictures/val --weights n.pt s.pt n6.pt

Without --weights: variants n, s and n6 with random weights whose batch norms have the statistics of
the pictures, so that every layer works in its usual range. Stated beside each: how far float32
itself is from float64, in torch, which no exported model can be expected to undercut.
"""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.measure import parser, report
from yolov5_core.architecture import describe
from yolov5_core.checkpoint import build_detector, load
from yolov5_core.data_yaml import list_images, read_data_yaml
from yolov5_core.export import (
    ExportConfig,
    Source,
    as_input,
    export,
    float64_check,
    read_pictures,
)
from yolov5_core.parity import Check
from yolov5_core.start import new_detector

_VARIANTS = ("n", "s", "n6")
_CLASSES = 3
_CALIBRATED = 8  # pictures


def realistic(variant: str, images: torch.Tensor) -> dict[str, Any]:
    """The payload of a checkpoint with random weights and the statistics of real pictures.

    Args:
        variant: Of describe().
        images: (B, 3, H, W) float32 in [0, 1].
    """
    model = new_detector(describe(variant, _CLASSES), seed=0).train()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
                module.weight.copy_(0.5 + torch.rand(module.weight.shape, generator=rng))
                module.bias.copy_(0.3 * torch.randn(module.bias.shape, generator=rng))
        model(images)
        for conv in model.detect.m:
            assert isinstance(conv.bias, torch.Tensor)  # noqa: S101  of our own head
            conv.bias.copy_(torch.randn(conv.bias.shape, generator=rng))
    return {
        "description": model.description.to_mapping(),
        "model": model.state_dict(),
        "names": [f"class {i}" for i in range(_CLASSES)],
    }


def measured(source: Source, size: int, images: Sequence[np.ndarray]) -> list[Check]:
    """Every format in every program, then float64."""
    config = ExportConfig(formats=("onnx", "torchscript"), image_hw=(size, size))
    with tempfile.TemporaryDirectory() as folder:
        checks = export(source, config, images, Path(folder)).checks
    model = build_detector(source.payload, source.name)
    exact = float64_check(model, images, (size, size))
    return [*checks, replace(exact, file=f"{source.name}, float32 beside float64")]


def main() -> None:
    """Measures and prints a table."""
    arguments = parser(__doc__)
    arguments.add_argument("--data", required=True, help="a data.yaml, or a folder of pictures")
    arguments.add_argument("--weights", nargs="*", default=[], help="checkpoints of ours")
    arguments.add_argument("--image-size", type=int, default=640, help="pixels")
    told = arguments.parse_args()
    is_yaml = told.data.endswith((".yaml", ".yml"))
    images = read_pictures(list_images(read_data_yaml(told.data).val if is_yaml else [told.data]))
    size: int = told.image_size
    few = np.stack([as_input(image, (size, size)) for image in images[:_CALIBRATED]])
    batch = torch.from_numpy(few.astype(np.float32) / np.float32(255))
    figures, rows = {}, []
    for name in told.weights or _VARIANTS:
        payload = load(Path(name)) if told.weights else realistic(name, batch)
        label = Path(name).stem if told.weights else name
        digest = hashlib.sha256(Path(name).read_bytes()).hexdigest() if told.weights else ""
        for check in measured(Source(payload=payload, name=label, sha256=digest), size, images):
            figures[f"{check.file} {check.program}"] = asdict(check)
            text = (
                f"detected {check.detected:.2e} px ({check.detections}), all boxes "
                f"{check.boxes:.2e} px, scores {check.scores:.2e}"
            )
            rows.append((f"{check.file}, {check.program}", text))
    report({"pictures": len(images), "image_size": size, "apart": figures}, rows, told.json)


if __name__ == "__main__":
    main()
