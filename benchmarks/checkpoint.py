"""Measures writing and reading a resumable checkpoint against its mere bytes.

    nice -n 15 python -m benchmarks.checkpoint --json checkpoint.json

The same bytes are copied in memory, and written to and read from the same disk, in turns. Written
means on the disk (fsync), as a checkpoint is; reading is from the page cache.
"""

import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import measure
from yolov5_core.architecture import describe
from yolov5_core.checkpoint import load, save
from yolov5_core.optimizer import build_optimizer
from yolov5_core.start import new_detector


def content(cfg: str) -> dict[str, Any]:
    """What a checkpoint holds inside an epoch: weights, average, gradients and momenta."""
    model = new_detector(describe(cfg, 80), seed=0)
    optimizer = build_optimizer(model, "sgd", lr=0.01, momentum=0.9, weight_decay=0.0005)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    average = {name: value.clone() for name, value in model.state_dict().items()}
    return {
        "model": average,
        "optimizer": optimizer.state_dict(),
        "resume": {
            "model": model.state_dict(),
            "gradients": [p.grad for p in model.parameters()],
        },
    }


def _write(content: bytes, path: Path) -> None:
    with path.open("wb") as file:
        file.write(content)
        os.fsync(file.fileno())


def main() -> None:
    """Measures, writes a table and, if asked, everything as JSON."""
    parser = measure.parser(__doc__)
    parser.add_argument("--cfg", default="n", help="variant")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", default=None, help="on the disk to be measured")
    arguments = parser.parse_args()
    state = content(arguments.cfg)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        ours, plain = Path(folder) / "x.pt", Path(folder) / "x.bin"
        save(state, ours)
        data = ours.read_bytes()
        array, target = np.frombuffer(data, np.uint8), np.empty(len(data), np.uint8)
        found = measure.in_turns(
            {
                "memcpy": lambda: np.copyto(target, array),
                "write": lambda: _write(data, plain),
                "save": lambda: save(state, ours),
                "read": plain.read_bytes,
                "load": lambda: load(ours),
            },
            arguments.rounds,
        )
    megabytes = len(data) / 1e6
    median = {name: statistics.median(each) for name, each in found.items()}
    ratios = {
        "save_to_write": measure.ratio(found["save"], found["write"]),
        "load_to_read": measure.ratio(found["load"], found["read"]),
        "save_to_memcpy": measure.ratio(found["save"], found["memcpy"]),
        "load_to_memcpy": measure.ratio(found["load"], found["memcpy"]),
    }
    rows = [("size", f"{megabytes:.1f} MB, variant {arguments.cfg}")]
    rows += [
        (name, f"{seconds * 1e3:.1f} ms, {megabytes / seconds:.0f} MB/s")
        for name, seconds in median.items()
    ]
    rows += [
        ("save takes", f"{ratios['save_to_write']:.2f} times as long as writing the bytes"),
        ("load takes", f"{ratios['load_to_read']:.2f} times as long as reading them, and "
                       f"{ratios['load_to_memcpy']:.1f} times a copy in memory"),
    ]  # fmt: skip
    measure.report({"megabytes": megabytes, "seconds": found, **ratios}, rows, arguments.json)


if __name__ == "__main__":
    main()
