"""Measures the training step of variant n at 320 pixels, batch 16, against a plain version.

    nice -n 15 python -m benchmarks.step --rounds 8 --json step.json

Each is a process of its own, as the allocator's settings belong to a process, over the same batches
(drawn pictures), as a run begins. A third multiplies float32 matrices, the most this processor can
do. They take turns. Wall seconds say something on an idle machine; CPU seconds on a busy one too,
best with --threads 1, where no thread spins while it waits for another.
"""

import os
import statistics
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch

from benchmarks import measure
from benchmarks.plain import PlainTrainer
from benchmarks.training import BATCH, Peak, Ready, drawn, step_gflop, trainer_over
from benchmarks.turns import Peer, column, serve, turns
from yolov5_core.allocator import keep_freed_memory

_STEPS = 2  # a turn


def _ours(data: Path) -> Callable[[], Mapping[str, float]]:
    keep_freed_memory()
    trainer = trainer_over(data, workers=0)
    gflop = step_gflop(trainer)
    trainer.loader = Ready(list(trainer.loader.epoch(0)))  # type: ignore[assignment]

    def work() -> Mapping[str, float]:
        trainer.train_epoch()
        return {"gflop": gflop * _STEPS}

    return work


def _plain(data: Path) -> Callable[[], Mapping[str, float]]:
    like = trainer_over(data, workers=0)
    batches = list(like.loader.epoch(0))
    batches = [b._replace(images=b.images.contiguous()) for b in batches]
    trainer = PlainTrainer(like)

    def work() -> Mapping[str, float]:
        for batch in batches:
            trainer.train_step(batch, trainer.step // _STEPS, _STEPS)
        return {}

    return work


def _serve(who: str, data: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    if who == "peak":
        serve(Peak().turn)
    else:
        serve(_ours(data) if who == "ours" else _plain(data))


def main() -> None:
    """Measures, writes a table and, if asked, everything as JSON."""
    parser = measure.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--who", default="", help="the part of one process, started by this one")
    parser.add_argument("--data", default="", help="its pictures")
    arguments = parser.parse_args()
    if arguments.who:
        _serve(arguments.who, Path(arguments.data), arguments.threads)
        return
    threads = str(arguments.threads)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        data = str(drawn(folder, train=_STEPS * BATCH, val=4))
        peers = {
            who: stack.enter_context(
                Peer("benchmarks.step", ["--who", who, "--data", data, "--threads", threads],
                     {"OMP_NUM_THREADS": threads})
            )
            for who in ("plain", "ours", "peak")
        }  # fmt: skip
        found = turns(peers, arguments.rounds, warmup=2)
    plain, ours = found["plain"], found["ours"]
    walls = {who: column(found[who], "seconds") for who in ("plain", "ours")}
    cpus = {who: column(found[who], "cpu_s") for who in ("plain", "ours")}
    pictures = _STEPS * BATCH
    gflop = ours[0]["gflop"]
    peak = {kind: max(column(found["peak"], kind)) for kind in ("mm", "conv")}
    per_cpu_s = gflop / statistics.median(cpus["ours"])
    figures = {
        "threads": arguments.threads,
        "ratio_wall": measure.ratio(walls["plain"], walls["ours"]),
        "ratio_cpu": measure.ratio(cpus["plain"], cpus["ours"]),
        "gflop_a_picture": gflop / pictures,
        "gflop_a_cpu_s": per_cpu_s,
        "peak_gflop_a_cpu_s": peak,
        "share_of_mm": per_cpu_s / peak["mm"],
        "share_of_conv": per_cpu_s / peak["conv"],
        "turns": found,
    }

    def row(who: str) -> str:
        faults = statistics.median(column(found[who], "faults")) / _STEPS
        return (
            f"{pictures / statistics.median(walls[who]):.1f} img/s, "
            f"{gflop / statistics.median(walls[who]):.0f} GFLOP/s of wall time; "
            f"{pictures / statistics.median(cpus[who]):.1f} img and "
            f"{gflop / statistics.median(cpus[who]):.0f} GFLOP a CPU second; "
            f"{faults:.0f} page faults a step; {column(found[who], 'peak_rss_mb')[-1]:.0f} MB"
        )

    rows = [
        ("plain", row("plain")),
        ("ours", row("ours")),
        ("times as fast", f"{figures['ratio_wall']:.2f} by wall time, "
                          f"{figures['ratio_cpu']:.2f} by CPU time"),
        ("peak", f"torch.mm {peak['mm']:.0f}, 1 x 1 convolution {peak['conv']:.0f} GFLOP a CPU "
                 "second"),
        ("share of it, ours", f"{figures['share_of_mm']:.2f} of torch.mm, "
                              f"{figures['share_of_conv']:.2f} of the convolution"),
    ]  # fmt: skip
    assert len(plain) == len(ours)  # noqa: S101
    measure.report(figures, rows, arguments.json)


if __name__ == "__main__":
    main()
