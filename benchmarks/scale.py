"""How cost grows with the number of pictures: prepare, and the data side of a training epoch.

    python -m benchmarks.scale --pictures 1000 5000 20000

Fits cost = a * pictures ^ k and states k: 1 is linear, and less means that something costs the
same however many pictures there are. CPU time counts, since other work on the machine does not
change it. Prepare is the whole stage on drawn pictures, a process each. The epoch's plan is made
whole, for every sample; of its batches some are made, spread over the epoch, and their cost a
picture is taken times all pictures: a batch is made in the same way wherever in the epoch it is.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.measure import parser, report
from benchmarks.prepare import draw, prepared_night
from tasks.datasets import Dataset, open_dataset
from tasks.packing import pack
from tasks.records import Prepared
from tasks.store import open_store
from yolov5_core.anchors import class_weights, image_weights
from yolov5_core.config import load_hyperparameters
from yolov5_core.index import Index, Records
from yolov5_core.loader import TrainingLoader, validation_loader
from yolov5_core.samples import ImageReader, TrainingSamples

_DISTINCT = 500  # pictures on the disk in the epoch's part; its records name them again and again
_BATCH = 16
_SAMPLED = 12  # batches
_ROUNDS = 5
_LARGEST = 1.05  # exponent


def main() -> None:
    """Runs the benchmark."""
    taken = parser(__doc__)
    taken.add_argument("--pictures", type=int, nargs="+", default=[1000, 5000, 20_000])
    taken.add_argument("--records", type=int, nargs="+", default=[1000, 10_000, 100_000])
    taken.add_argument("--folder", default=None, help="where to draw; empty: a temporary folder")
    arguments = taken.parse_args()
    cv2.setNumThreads(0)  # as in a loader's worker
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        prepared = [_prepare(Path(folder) / str(n), n) for n in arguments.pictures]
        dataset, index = _small_set(Path(folder) / "small")
        epochs = [_epoch(dataset, index, n) for n in arguments.records]
        parts = {name: _least_cpu_seconds([e[name] for e in epochs]) for name in epochs[0]}
    parts["batches of an epoch"] = [
        seconds / (_SAMPLED * _BATCH) * records
        for seconds, records in zip(parts["batches of an epoch"], arguments.records, strict=True)
    ]
    curves = {
        "prepare": (arguments.pictures, [p["cpu_seconds"] for p in prepared]),
        **{name: (arguments.records, seconds) for name, seconds in parts.items()},
    }
    exponents = {name: exponent(*curve) for name, curve in curves.items()}
    rows = [
        (name, f"exponent {exponents[name]:.3f}; " + ", ".join(
            f"{n}: {s:.3g} s" for n, s in zip(*curve, strict=True)))
        for name, curve in curves.items()
    ]  # fmt: skip
    figures = {
        "exponents": exponents,
        "prepare": dict(zip(map(str, arguments.pictures), prepared, strict=True)),
        "epoch": {
            name: dict(zip(map(str, arguments.records), s, strict=True))
            for name, s in parts.items()
        },
    }
    report(figures, rows, arguments.json)
    if steep := [name for name, k in exponents.items() if k > _LARGEST]:
        sys.exit(f"grows faster than linear: {', '.join(steep)}")


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of the straight line that fits best in log-log."""
    return round(float(np.polyfit(np.log(sizes), np.log(costs), 1)[0]), 4)


def _prepare(folder: Path, pictures: int) -> dict[str, float]:
    folder.mkdir(parents=True)
    return prepared_night(draw(folder, pictures), folder / "store")


def _small_set(folder: Path) -> tuple[Dataset, Index]:
    """A prepared set, and the index of its training pictures."""
    folder.mkdir(parents=True)
    store = open_store(str(folder / "store"))
    packed = pack(store, str(draw(folder, _DISTINCT)), lambda *_: None)
    prepared = Prepared(
        digest=packed.digest, names=(), counts={}, rejected=(), report="", verdict=""
    )
    return open_dataset(store, prepared), packed.index


def _epoch(dataset: Dataset, index: Index, pictures: int) -> dict[str, Callable[[], Any]]:
    """What an epoch does besides the model; the last of it makes some of the batches."""
    first, last = index.rows("train")
    many = index.take(first + np.arange(pictures) % (last - first))
    files = [dataset.splits["train"][0].place.file] * (int(many.images["shard"].max()) + 1)
    records = Records(many, "train", files)
    reader = ImageReader(records, 320, augmenting=True)
    augment = load_hyperparameters("scratch-low").augment

    def start() -> TrainingLoader:
        validation_loader(reader, batch_size=2 * _BATCH, workers=0, stride=32, pin=False)
        samples = TrainingSamples(reader, augment, seed=0, mosaic=True)
        return TrainingLoader(samples, batch_size=_BATCH, workers=0, stride=32, pin=False)

    loader = start()
    plan = loader.plan(0)

    def weighted() -> None:
        labels = [record.labels for record in records]
        sum(map(len, loader.plan(0, image_weights(labels, class_weights(labels, 3)))))

    def batches() -> None:
        for number in np.linspace(0, len(plan) - 2, _SAMPLED).astype(int).tolist():
            loader.batch(plan[number])

    return {
        "start of both loaders": start,
        "plan of an epoch": lambda: sum(map(len, loader.plan(0))),
        "plan with image_weights": weighted,
        "batches of an epoch": batches,
    }


def _least_cpu_seconds(work: Sequence[Callable[[], Any]]) -> list[float]:
    """Of each in some rounds, in turns, so that a busy machine is busy for all of them."""
    least = [float("inf")] * len(work)
    for _ in range(_ROUNDS):
        for number, run in enumerate(work):
            begun = time.process_time()
            run()
            least[number] = min(least[number], time.process_time() - begun)
    return least


if __name__ == "__main__":
    main()
