"""Prepares a large generated data set twice, the second time with some pictures changed.

    python -m benchmarks.prepare --pictures 100000

States pictures a second of CPU time (one core), the peak memory of all processes together, and what
the second night costs of the first. Each night is a process of its own; everything the prepare
stage does is in it: listing, check, packing, index, digest, report, gates.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing import Pool
from pathlib import Path

import cv2
import numpy as np

_SIDE = 416  # pixels
_PER_FOLDER = 1000


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--changed", type=float, default=0.01, help="share, on the second night")
    parser.add_argument("--folder", default="", help="where to draw; empty: a temporary folder")
    parser.add_argument("--json", default="", help="where to write the figures")
    parser.add_argument("--night", default="", help="(internal) prepare this data.yaml once")
    parser.add_argument("--store", default="", help="(internal)")
    arguments = parser.parse_args()
    if arguments.night:
        one_night(arguments.night, arguments.store)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder or None) as folder:
        figures = measure(Path(folder), arguments.pictures, arguments.changed)
    text = json.dumps(figures, indent=1)
    if arguments.json:
        Path(arguments.json).write_text(text + "\n", "utf-8")
    sys.stdout.write(text + "\n")


def one_night(data: str, store: str) -> None:
    """Prepares and prints the figures of this process and its children."""
    from tasks.prepare import prepare_stage  # noqa: PLC0415  counted in: a night starts cold
    from tasks.settings import RetrainConfig  # noqa: PLC0415
    from tasks.store import open_store  # noqa: PLC0415

    peak = _Peak()
    started, cpu = time.perf_counter(), _cpu_seconds()  # the imports are behind us
    config = RetrainConfig(data=data, store=store, max_drift=1.0)
    run = f"night-{time.time_ns()}"
    prepared = prepare_stage(open_store(store), run, config)
    seconds = time.perf_counter() - started
    figures = {
        "seconds": seconds,
        "cpu_seconds": _cpu_seconds() - cpu,
        "peak_mb": peak.stop(),
        "pictures": sum(row["pictures"] for row in prepared.counts.values()),
    }
    sys.stdout.write(json.dumps(figures) + "\n")


def _cpu_seconds() -> float:
    usage = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


class _Peak:
    """Memory of this process and its children, looked at 20 times a second."""

    def __init__(self) -> None:
        self._largest = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            pids = [os.getpid(), *_children(os.getpid())]
            self._largest = max(self._largest, sum(map(_private_mb, pids)))

    def stop(self) -> float:
        self._done.set()
        self._thread.join()
        return round(self._largest, 1)


def _children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(p) for t in tasks for p in (t / "children").read_text("ascii").split()]
    except OSError:
        return []


def _private_mb(pid: int) -> float:
    """Resident memory; pages of mapped files count too."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    except (OSError, IndexError):  # it has just ended
        return 0.0
    return pages * resource.getpagesize() / 1e6


def measure(folder: Path, pictures: int, changed: float) -> dict[str, object]:
    """Draws, prepares, changes, prepares again."""
    data, store = draw(folder, pictures), folder / "store"
    first = prepared_night(data, store)
    numbers = np.random.default_rng(1).choice(pictures, round(changed * pictures), replace=False)
    for number in numbers.tolist():
        _draw_one(folder, number, 1)
    second = prepared_night(data, store)
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {sys.version.split()[0]}",
        "pictures": pictures,
        "side_pixels": _SIDE,
        "changed": len(numbers),
        "first_night": first,
        "second_night": second,
        "pictures_a_cpu_second": round(pictures / first["cpu_seconds"], 1),
        "second_of_first_wall": round(second["seconds"] / first["seconds"], 4),
        "second_of_first_cpu": round(second["cpu_seconds"] / first["cpu_seconds"], 4),
        "peak_mb": max(first["peak_mb"], second["peak_mb"]),
    }


def prepared_night(data: Path, store: Path) -> dict[str, float]:
    """The figures of one preparation, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.prepare"]
    command += ["--night", str(data), "--store", str(store)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  our own
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def draw(folder: Path, pictures: int) -> Path:
    """Small JPEGs with three boxes each, nine in ten for training."""
    folders = {_paths(folder, n)[i].parent for n in range(0, pictures, 10) for i in (0, 1)}
    for path in folders | {
        _paths(folder, n)[i].parent for n in range(1, pictures, 10) for i in (0, 1)
    }:
        path.mkdir(parents=True, exist_ok=True)
    with Pool() as pool:
        pool.starmap(_draw_one, [(folder, n, 0) for n in range(pictures)], chunksize=500)
    data = folder / "data.yaml"
    data.write_text("train: images/train\nval: images/val\nnames: [a, b, c]\n")
    return data


def _paths(folder: Path, number: int) -> tuple[Path, Path]:
    split = "val" if number % 10 == 0 else "train"
    tail = f"{split}/{number // _PER_FOLDER:04d}/{number:07d}"
    return folder / f"images/{tail}.jpg", folder / f"labels/{tail}.txt"


def _draw_one(folder: Path, number: int, version: int) -> None:
    rng = np.random.default_rng((number, version))
    image = np.full((_SIDE, _SIDE, 3), rng.integers(40, 200, 3), np.uint8)
    rows = []
    for cls in range(3):
        x, y = rng.integers(0, _SIDE - 40, 2).tolist()
        w, h = rng.integers(10, 40, 2).tolist()
        colour = rng.integers(0, 255, 3).tolist()
        cv2.rectangle(image, (x, y), (x + w, y + h), colour, cv2.FILLED)
        numbers = ((x + w / 2) / _SIDE, (y + h / 2) / _SIDE, w / _SIDE, h / _SIDE)
        rows.append(f"{cls} " + " ".join(f"{v:.6f}" for v in numbers))
    _, encoded = cv2.imencode(".jpg", image)
    image_path, label_path = _paths(folder, number)
    image_path.write_bytes(encoded.tobytes())
    label_path.write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
