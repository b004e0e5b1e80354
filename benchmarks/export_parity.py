"""How far exported models are from their originals, on 20 real pictures, and what exact sums cost.

    python -m benchmarks.export_parity --data path/to/data.yaml --weights n.pt s.pt n6.pt

The weights must be trained ones: a random network amplifies the rounding of float32 to whole
pixels. Compared with is the original in float64; stated beside each is how far its own float32 is.
The seconds of one picture are taken in turns.
"""

import hashlib
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import in_turns, parser, report
from yolov5_core.checkpoint import load
from yolov5_core.data_yaml import list_images, read_data_yaml
from yolov5_core.export import ExportConfig, Source, as_input, export, read_pictures
from yolov5_core.export_formats import ExportFacts, onnx_programs
from yolov5_core.parity import Check

_ROUNDS = 9


def measured(
    source: Source, size: int, images: Sequence[np.ndarray]
) -> tuple[list[Check], dict[str, list[float]]]:
    """Every format in every program, the original in float32; seconds of a picture in ONNX."""
    shown = as_input(images[0], (size, size))[None].astype(np.float32) / np.float32(255)
    exact = replace(source, name=f"{source.name}-exact-sums")
    plain_config = ExportConfig(formats=("onnx", "torchscript"), image_hw=(size, size))
    exact_config = replace(plain_config, formats=("onnx",), exact_sums=True)
    facts = ExportFacts(names=(), image_hw=(size, size), sha256=source.sha256)
    with tempfile.TemporaryDirectory() as folder:
        plain = export(source, plain_config, images, Path(folder))
        better = export(exact, exact_config, images, Path(folder))
        runs: dict[str, Callable[[], Any]] = {
            f"{path.name} {program.name}": partial(program.run, shown)
            for path in (plain.models[0], better.models[0])
            for program in onnx_programs(path, facts)
        }
        seconds = in_turns(runs, _ROUNDS)
    return [*plain.checks, *better.checks, replace(plain.own, file=source.name)], seconds


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
        checks, seconds = measured(source, size, images)
        for check in checks:
            what = f"{check.file} {check.program}"
            text = (
                f"detected {check.detected:.2e} px ({check.detections}), all boxes "
                f"{check.boxes:.2e} px, scores {check.scores:.2e}"
            )
            if what in seconds:
                text += f", {1e3 * statistics.median(seconds[what]):.0f} ms"
            figures[what] = {**asdict(check), "seconds": seconds.get(what, [])}
            rows.append((what, text))
    report({"pictures": len(images), "image_size": size, "apart": figures}, rows, told.json)


if __name__ == "__main__":
    main()
