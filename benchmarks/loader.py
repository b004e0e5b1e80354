"""Measures the training loader: samples a second, where the time goes, and memory.

    python -m benchmarks.loader --data path/to/data.yaml --sizes 640 320 --json loader.json

A sample is a mosaic of four with the default augmentation, delivered in batches of 16 by a loader
without workers: rates are per second of CPU time of one core. Other programs on the machine cost
cache and memory bandwidth all the same, hence the best of several rounds. Memory is that of a
loader over a set, and over the same pictures repeated ten and a hundred times, caching off.
"""

import argparse
import cProfile
import json
import multiprocessing
import os
import platform
import pstats
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import torch

from yolov5_core.check import scan
from yolov5_core.config import AugmentConfig
from yolov5_core.data_yaml import list_images, read_data_yaml
from yolov5_core.dataset import Record
from yolov5_core.loader import TrainingLoader
from yolov5_core.samples import ImageReader, TrainingSamples

_BATCH = 16
_MEMORY_SIZE = 320  # pixels
_MEMORY_BATCHES = 40
# Stage of the work: functions (file, name) whose whole time it is; none of them calls another.
_STAGES = {
    "read": (("dataset", "read"),),
    "decode": (("decode", "decode"),),
    "resize": (("augment", "resize"),),
    "canvas": (("mosaic", "new_canvas"), ("mosaic", "paint"), ("mosaic", "copy_paste")),
    "warp": (("perspective", "warp_image"),),
    "colour": (("augment", "to_rgb"),),
    "flip": (("augment", "flip_up_down"), ("augment", "flip_left_right")),
    "labels": (("mosaic", "place_labels"), ("perspective", "warp_labels"), ("boxes", "normalise")),
    "draws, geometry": (
        *(("randomness", "generator"), ("mosaic", "draw_mosaic_center")),
        *(("augment", "hsv_gains"), ("perspective", "draw_perspective")),
        *(("perspective", "plan_warp"), ("perspective", "seen_window")),
    ),
    "batch": (("loader", "_collate"),),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """How fast samples of one size come from one source."""

    source: str  # cache or files
    image_size: int  # pixels
    best: float  # samples per second of CPU time
    median: float
    rounds: tuple[float, ...]
    stages_ms: dict[str, float]  # of the profile's milliseconds a sample, scaled to the best round


class Repeated(Sequence[Record]):
    """Records again and again, without a list of them."""

    def __init__(self, records: Sequence[Record], times: int) -> None:
        self.records = records
        self.times = times

    def __len__(self) -> int:
        return len(self.records) * self.times

    def __getitem__(self, index: int) -> Record:  # type: ignore[override]  # no slices needed
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.records[index % len(self.records)]


def read_records(data: str) -> tuple[Record, ...]:
    """The usable training pictures of a data.yaml."""
    spec = read_data_yaml(Path(data))
    return scan(list_images(spec.train), len(spec.names)).records


def new_loader(records: Sequence[Record], image_size: int) -> TrainingLoader:
    """A loader of mosaics in this process."""
    reader = ImageReader(records, image_size, augmenting=True)
    samples = TrainingSamples(reader, AugmentConfig(), seed=0, mosaic=True)
    return TrainingLoader(samples, batch_size=_BATCH, workers=0, stride=32, pin=False)


def measure_rate(records: Sequence[Record], image_size: int, rounds: int, *, cached: bool) -> Rate:
    """Whole epochs, each timed; then one more under the profiler."""
    loader = new_loader(records, image_size)
    if cached:
        loader.samples.reader.cache(lambda *_: None)
    rates = []
    for epoch in range(rounds):
        started = time.process_time()
        count = sum(len(batch.images) for batch in loader.epoch(epoch))
        rates.append(count / (time.process_time() - started))
    return Rate(
        source="cache" if cached else "files",
        image_size=image_size,
        best=round(max(rates), 1),
        median=round(statistics.median(rates), 1),
        rounds=tuple(round(rate, 1) for rate in rates),
        stages_ms=_stages(loader, 1000 / max(rates)),
    )


def _stages(loader: TrainingLoader, milliseconds: float) -> dict[str, float]:
    """The milliseconds a sample takes, divided among the stages as the profiler sees it."""
    profile = cProfile.Profile(time.thread_time)
    profile.enable()
    for _ in loader.epoch(0):
        pass
    profile.disable()
    stats = pstats.Stats(profile)
    own = {(Path(file).stem, name): row[3] for (file, _, name), row in stats.stats.items()}  # type: ignore[attr-defined]
    total: float = stats.total_tt  # type: ignore[attr-defined]
    shares = {
        stage: sum(own.get(function, 0.0) for function in functions) / total
        for stage, functions in _STAGES.items()
    }
    shares["other"] = 1 - sum(shares.values())
    return {stage: round(share * milliseconds, 3) for stage, share in shares.items()}


def loader_memory(data: str, times: int) -> float:
    """Megabytes that a loader takes over a set repeated so often; in a process of its own."""
    _use_one_thread()
    records = Repeated(read_records(data), times)
    before = _anonymous_mb()
    loader, most = new_loader(records, _MEMORY_SIZE), 0.0
    for number, _ in enumerate(loader.epoch(0), 1):
        most = max(most, _anonymous_mb())
        if number == _MEMORY_BATCHES:
            break
    return round(most - before, 1)


def _anonymous_mb() -> float:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:"))


def _use_one_thread() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def measure_memory(data: str, pictures: int) -> dict[str, float]:
    """Megabytes by number of records.

    Every large block is given back at once (glibc's MALLOC_MMAP_THRESHOLD_), so that figures are of
    what the loader holds, not of what the allocator keeps, up to 80 MB, in case it is wanted again.
    """
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # bytes; for the processes to come
    spawn = multiprocessing.get_context("spawn")
    used = {}
    for times in (1, 10, 100):
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            used[str(pictures * times)] = pool.submit(loader_memory, data, times).result()
    return used


def table(rates: Sequence[Rate]) -> str:
    """Rates and profile, a column each."""
    head = "".join(f"{rate.source} {rate.image_size}".rjust(12) for rate in rates)
    best = "".join(f"{rate.best:12.1f}" for rate in rates)
    median = "".join(f"{rate.median:12.1f}" for rate in rates)
    lines = [f"{'samples/s':18s}{head}", f"{'best':18s}{best}", f"{'median':18s}{median}"]
    lines.append("milliseconds a sample")
    lines += [
        f"  {stage:16s}" + "".join(f"{rate.stages_ms[stage]:12.3f}" for rate in rates)
        for stage in rates[0].stages_ms
    ]
    return "\n".join(lines)


def _circumstances(pictures: int) -> dict[str, object]:
    from tasks.stage import code_version  # noqa: PLC0415  it brings Prefect: not while measuring

    model = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        if line.startswith("model name")
    ]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": code_version(),
        "machine": f"{platform.machine()}, {len(model)} x {(model or ['unknown'])[0]}",
        "versions": {
            "python": platform.python_version(),
            "opencv": cv2.__version__,
            "numpy": np.__version__,
            "torch": torch.__version__,
        },
        "pictures": pictures,
        "batch": _BATCH,
        "memory_image_size": _MEMORY_SIZE,
    }


def main() -> None:
    """Measures, writes a table to standard output and, if asked, everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a data.yaml")
    parser.add_argument("--sizes", type=int, nargs="+", default=[640, 320], help="pixels")
    parser.add_argument("--rounds", type=int, default=8, help="epochs timed, per size and source")
    parser.add_argument("--json", default="", help="where to write the figures")
    arguments = parser.parse_args()
    _use_one_thread()
    records = read_records(arguments.data)
    memory = measure_memory(arguments.data, len(records))
    rates = [
        measure_rate(records, size, arguments.rounds, cached=cached)
        for cached in (True, False)
        for size in arguments.sizes
    ]
    text = table(rates)
    uses = ", ".join(f"{mb:.1f} MB over {count} records" for count, mb in memory.items())
    sys.stdout.write(f"{text}\nmemory of the loader: {uses}\n")
    figures = {
        **_circumstances(len(records)),
        "rates": [asdict(rate) for rate in rates],
        "memory_mb": memory,
    }
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
