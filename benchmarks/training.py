"""What the benchmarks of training share: variant n over a set of pictures, and the peak of the CPU.

Both are made in the process that measures, as a run makes them.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from tasks.device import pick_device
from yolov5_core.architecture import describe
from yolov5_core.check import scan
from yolov5_core.config import TrainConfig
from yolov5_core.data_yaml import list_images, read_data_yaml
from yolov5_core.loader import Batch
from yolov5_core.start import new_detector
from yolov5_core.synthetic import draw_dataset
from yolov5_core.trainer import Trainer

BATCH = 16
IMAGE_SIZE = 320  # pixels
_SIDES = (1024, 2048)  # of the matrices that are multiplied


def drawn(folder: str, train: int, val: int) -> Path:
    """A drawn picture set's data.yaml."""
    return draw_dataset(
        Path(folder),
        train=train,
        val=val,
        image_size=IMAGE_SIZE,
        seed=0,
        progress=lambda *_: None,
    )


def trainer_over(data: Path, workers: int) -> Trainer:
    """A run's trainer: reproducible, from scratch."""
    device = pick_device("cpu")
    spec = read_data_yaml(data)
    train, val = (scan(list_images(s), len(spec.names)).records for s in (spec.train, spec.val))
    config = TrainConfig(epochs=100, batch_size=BATCH, image_size=IMAGE_SIZE, workers=workers)
    model = new_detector(describe("n", len(spec.names)), config.seed)
    return Trainer(config, model, train, val, device)


def step_gflop(trainer: Trainer) -> float:
    """GFLOP of one forward and backward pass of a full batch, a multiplication counted as one."""
    images = torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    with FlopCounterMode(display=False) as counter:
        sum(level.sum() for level in trainer.model.train()(images)).backward()
    trainer.model.zero_grad()
    return counter.get_total_flops() * BATCH / 1e9


class Peak:
    """Multiplies float32 matrices: the most arithmetic that this processor does a second."""

    def __init__(self) -> None:
        self._matrices = [(torch.randn(n, n), torch.randn(n, n)) for n in _SIDES]
        last = torch.channels_last
        self._weights = torch.randn(512, 512, 1, 1).to(memory_format=last)
        self._images = torch.randn(16, 512, 32, 32).to(memory_format=last)

    @torch.no_grad()
    def turn(self) -> Mapping[str, float]:
        """GFLOP a CPU second: of torch.mm at its best size, and of oneDNN's 1 x 1 convolution."""
        mm = max(_rate(partial(torch.mm, a, b), 2 * len(a) ** 3) for a, b in self._matrices)
        pixels = self._images.numel() // 512
        conv = _rate(partial(F.conv2d, self._images, self._weights), 2 * pixels * 512 * 512)
        return {"mm": mm, "conv": conv}


def _rate(work: Callable[[], object], flop: int) -> float:
    """GFLOP a CPU second of one thread; the best of two."""
    work()
    rates = []
    for _ in range(2):
        started, done = time.process_time(), 0
        while time.process_time() - started < 0.1:
            work()
            done += 1
        rates.append(done * flop / (time.process_time() - started) / 1e9)
    return max(rates)


class Ready:
    """Batches that are there already, in the place of a loader."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, _epoch: int, _weights: object, skip: int) -> Iterator[Batch]:
        """Those after the first `skip`, in any epoch."""
        yield from self.batches[skip:]
