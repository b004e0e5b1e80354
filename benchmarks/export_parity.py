"""How far exported models are from their originals, on 20 real pictures.

    python -m benchmarks.export_parity --data path/to/data.yaml --weights n.pt s.pt n6.pt

The weights must be trained ones: a random network amplifies the rounding of float32 to whole
pixels. Stated beside each: how far float32 itself is from float64, in torch, which no exported
model can be expected to undercut.
"""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from benchmarks.measure import parser, report
from yolov5_core.checkpoint import build_detector, load
from yolov5_core.data_yaml import list_images, read_data_yaml
from yolov5_core.export import (
    ExportConfig,
    Source,
    export,
    float64_check,
    read_pictures,
)
from yolov5_core.parity import Check


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
    arguments.add_argument("--weights", nargs="+", required=True, help="checkpoints of ours")
    arguments.add_argument("--image-size", type=int, default=640, help="pixels")
    told = arguments.parse_args()
    is_yaml = told.data.endswith((".yaml", ".yml"))
    images = read_pictures(list_images(read_data_yaml(told.data).val if is_yaml else [told.data]))
    size: int = told.image_size
    figures, rows = {}, []
    for name in told.weights:
        path = Path(name)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        source = Source(payload=load(path), name=path.stem, sha256=digest)
        for check in measured(source, size, images):
            figures[f"{check.file} {check.program}"] = asdict(check)
            text = (
                f"detected {check.detected:.2e} px ({check.detections}), all boxes "
                f"{check.boxes:.2e} px, scores {check.scores:.2e}"
            )
            rows.append((f"{check.file}, {check.program}", text))
    report({"pictures": len(images), "image_size": size, "apart": figures}, rows, told.json)


if __name__ == "__main__":
    main()
