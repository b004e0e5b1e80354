"""Measures a whole epoch of variant n at 320 pixels, batch 16, against a plain version.

    nice -n 15 python -m benchmarks.epoch --rounds 3 --json epoch.json

An epoch is loading, training and validation, from the first on, when a model finds boxes
everywhere. Pictures are drawn, or those of --data. Each version is a process of its own with its
loading processes, and they take turns. CPU seconds are of all of them, and say something on a busy
machine too. The idle share is the part of training in which the step waits for its pictures.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks import measure
from benchmarks.plain import PlainTrainer
from benchmarks.training import drawn, trainer_over
from benchmarks.turns import Peer, Turn, column, serve, turns
from yolov5_core.allocator import keep_freed_memory
from yolov5_core.loader import Batch, TrainingLoader

Work = Callable[[], Mapping[str, float]]


class Waiting:
    """A loader, and the seconds in which its batches were waited for."""

    def __init__(self, loader: TrainingLoader) -> None:
        self.loader = loader
        self.seconds = 0.0

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, epoch: int, weights: np.ndarray | None, skip: int) -> Iterator[Batch]:
        """Its batches."""
        self.seconds, started = 0.0, time.perf_counter()
        for batch in self.loader.epoch(epoch, weights, skip):
            self.seconds += time.perf_counter() - started
            yield batch
            started = time.perf_counter()


def _ours(data: Path, workers: int) -> Work:
    keep_freed_memory()
    trainer = trainer_over(data, workers)
    trainer.cache_images(lambda *_: None)
    waiting = Waiting(trainer.loader)
    trainer.loader = waiting  # type: ignore[assignment]

    def work() -> Mapping[str, float]:
        started = time.perf_counter()
        trainer.train_epoch()
        trained = time.perf_counter()
        trainer.evaluate()
        return _parts(started, trained, waiting)

    return work


def _plain(data: Path, workers: int) -> Work:
    like = trainer_over(data, workers)
    trainer, waiting, epochs = (
        PlainTrainer(like),
        Waiting(like.loader),
        iter(range(like.config.epochs)),
    )

    def work() -> Mapping[str, float]:
        started, epoch = time.perf_counter(), next(epochs)
        for batch in waiting.epoch(epoch, None, 0):
            trainer.train_step(batch, epoch, len(waiting))
        trained = time.perf_counter()
        trainer.evaluate(like.val_loader)
        return _parts(started, trained, waiting)

    return work


def _parts(started: float, trained: float, waiting: Waiting) -> Mapping[str, float]:
    return {
        "training_s": trained - started,
        "validation_s": time.perf_counter() - trained,
        "waiting_s": waiting.seconds,
    }


def _row(found: list[Turn]) -> str:
    seconds, cpu_s, training, validation, faults, alone, together = (
        statistics.median(column(found, name))
        for name in ("seconds", "cpu_s", "training_s", "validation_s", "faults", "peak_rss_mb",
                     "held_mb")
    )  # fmt: skip
    return (
        f"{seconds:.1f} s, {training:.1f} of them training and {validation:.1f} validation; "
        f"{cpu_s:.1f} CPU s; {faults:.0f} page faults; step waits {_idle(found):.1%} of training; "
        f"{alone:.0f} MB at most, {together:.0f} MB with its loading processes afterwards"
    )


def _idle(found: list[Turn]) -> float:
    return sum(column(found, "waiting_s")) / sum(column(found, "training_s"))


def main() -> None:
    """Measures, writes a table and, if asked, everything as JSON."""
    parser = measure.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="epochs of each")
    parser.add_argument("--data", default="", help="a data.yaml; drawn pictures if left out")
    parser.add_argument("--train", type=int, default=292, help="pictures drawn to train")
    parser.add_argument("--val", type=int, default=72, help="and to validate")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--who", default="", help="the part of one process, started by this one")
    arguments = parser.parse_args()
    if arguments.who:
        cv2.setNumThreads(0)  # as in a run
        torch.set_num_threads(arguments.threads)
        begin = _ours if arguments.who == "ours" else _plain
        serve(begin(Path(arguments.data), arguments.workers))
        return
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        data = arguments.data or str(drawn(folder, arguments.train, arguments.val))
        told = [
            *("--data", data, "--workers", str(arguments.workers)),
            *("--threads", str(arguments.threads)),
        ]
        threads = {"OMP_NUM_THREADS": str(arguments.threads)}
        peers = {
            who: stack.enter_context(Peer("benchmarks.epoch", ["--who", who, *told], threads))
            for who in ("plain", "ours")
        }
        found = turns(peers, arguments.rounds, warmup=0)
    by_wall, by_cpu = (
        measure.ratio(column(found["plain"], name), column(found["ours"], name))
        for name in ("seconds", "cpu_s")
    )
    rows = [
        ("plain", _row(found["plain"])),
        ("ours", _row(found["ours"])),
        ("times as fast", f"{by_wall:.2f} by wall time, {by_cpu:.2f} by CPU time"),
    ]
    figures = {
        "ratio_wall": by_wall,
        "ratio_cpu": by_cpu,
        "idle_share": _idle(found["ours"]),
        "workers": arguments.workers,
        "threads": arguments.threads,
        "turns": found,
    }
    measure.report(figures, rows, arguments.json)


if __name__ == "__main__":
    main()
