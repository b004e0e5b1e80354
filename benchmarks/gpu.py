"""Measures training steps on a GPU: pictures a second of n, s and m at 640 pixels.

    python -m benchmarks.gpu --batch 64 --json gpu.json

Steps are a run's own, in mixed precision, over batches that lie in page-locked memory. The peak is
that of multiplying large bfloat16 matrices in the same run. --auto-batch takes the largest batch
that fits instead. --profile FILE writes which kernels take the time.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import measure
from benchmarks.training import Ready
from tasks.batch_size import with_batch_size
from tasks.device import tune_convolutions
from yolov5_core.architecture import describe
from yolov5_core.config import TrainConfig
from yolov5_core.dataset import Place, Record
from yolov5_core.loader import Batch
from yolov5_core.start import new_detector
from yolov5_core.trainer import Trainer

_PICTURES, _BOXES, _CLASSES = 100_000, 8, 80
_SIDE = 8192  # of the matrices that are multiplied
_STEPS = 20  # a round
_SHOWN = 20  # kernels


def trainer_on(device: torch.device, cfg: str, config: TrainConfig, *, auto_batch: bool) -> Trainer:
    """A trainer of a variant whose loader has two random batches, again and again."""
    label = np.array([[0, 0.5, 0.5, 0.2, 0.2]], np.float32)
    side = config.image_size
    nowhere = Record(name="none", place=Place(Path("none"), 0, 0), width=side, height=side,
                     labels=label, segments=())  # fmt: skip
    model = new_detector(describe(cfg, _CLASSES), config.seed)
    tune_convolutions(config)
    if auto_batch:
        config = with_batch_size(config, model, device, _PICTURES)
    trainer = Trainer(config, model, (nowhere,), (nowhere,), device)
    batches = [_batch(config.batch_size, side, device.type == "cuda") for _ in range(2)]
    trainer.loader = Ready([batches[i % 2] for i in range(_STEPS)])  # type: ignore[assignment]
    return trainer


def _batch(size: int, side: int, pin: bool) -> Batch:
    images = torch.randint(256, (size, side, side, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    targets = torch.rand(size * _BOXES, 6) * torch.tensor([1, _CLASSES, 1, 1, 0.4, 0.4])
    targets[:, 0] = torch.arange(len(targets)) // _BOXES
    targets[:, 1].floor_()
    if pin:
        images, targets = images.pin_memory(), targets.pin_memory()
    return Batch(images, targets, [0] * size)


def picture_tflop(trainer: Trainer) -> float:
    """TFLOP of a picture forward and backward."""
    side = trainer.config.image_size
    images = torch.zeros(1, 3, side, side, device=trainer.device)
    with FlopCounterMode(display=False) as counter:
        sum(level.sum() for level in trainer.model.train()(images)).backward()
    trainer.model.zero_grad()
    return counter.get_total_flops() / 1e12


def _seconds(work: Callable[[], object], rounds: int) -> list[float]:
    work()
    found = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return found


def _peak_tflops(device: torch.device, rounds: int) -> float:
    a, b = (torch.randn(_SIDE, _SIDE, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 10 * 2 * _SIDE**3 / min(_seconds(lambda: [a @ b for _ in range(10)], rounds)) / 1e12


def main() -> None:
    """Measures, writes a table and, if asked, everything as JSON."""
    parser = measure.parser(__doc__)
    parser.add_argument("--cfg", nargs="+", default=["n", "s", "m"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--auto-batch", action="store_true")
    parser.add_argument("--image-size", type=int, default=640, help="pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", default="", metavar="FILE")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.stdout.write("no GPU here that torch can use: nothing measured\n")
        return
    device = torch.device("cuda", 0)
    peak = _peak_tflops(device, arguments.rounds)
    rows = [("peak", f"{torch.cuda.get_device_name(device)}: {peak:.0f} TFLOP/s in bfloat16")]
    figures: dict[str, object] = {"peak_tflops": peak}
    tables = []
    for cfg in arguments.cfg:
        config = TrainConfig(
            epochs=100, batch_size=arguments.batch, image_size=arguments.image_size, workers=0
        )
        trainer = trainer_on(device, cfg, config, auto_batch=arguments.auto_batch)
        size, tflop = trainer.config.batch_size, picture_tflop(trainer)
        torch.cuda.reset_peak_memory_stats(device)
        rates = [_STEPS * size / s for s in _seconds(trainer.train_epoch, arguments.rounds)]
        rate, memory = float(np.median(rates)), torch.cuda.max_memory_allocated(device) / 1e9
        share = rate * tflop / peak
        rows.append((cfg, f"{rate:.0f} img/s in batches of {size}, {rate * tflop:.1f} TFLOP/s, "
                          f"{share:.1%} of the peak; {memory:.1f} GB"))  # fmt: skip
        figures[cfg] = {"img_s": rates, "batch": size, "share": share, "memory_gb": memory}
        if arguments.profile:
            with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
                trainer.train_epoch()
            table = found.key_averages().table("cuda_time_total", row_limit=_SHOWN)
            tables.append(f"variant {cfg}\n{table}\n")
    if arguments.profile:
        Path(arguments.profile).write_text("\n".join(tables), "utf-8")
    measure.report(figures, rows, arguments.json)


if __name__ == "__main__":
    main()
