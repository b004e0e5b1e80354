"""The training loop as an explicit state: one epoch at a time, whoever drives it saves and logs."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from yolov5_core.anchors import class_weights, image_weights
from yolov5_core.config import TrainConfig
from yolov5_core.dataset import Record
from yolov5_core.ema import Ema
from yolov5_core.evaluate import autocast, evaluate, to_float
from yolov5_core.evaluation import Evaluation
from yolov5_core.loader import Batch, TrainingLoader, validation_loader
from yolov5_core.loss import DetectionLoss
from yolov5_core.model import Detector
from yolov5_core.optimizer import apply_settings, build_optimizer, freeze
from yolov5_core.randomness import generator
from yolov5_core.results import ResultsRow, format_row
from yolov5_core.samples import ImageReader, SampleKey, TrainingSamples
from yolov5_core.schedule import ScheduleConfig, scaled_weight_decay, settings_at

log = logging.getLogger(__name__)

_GRADIENT_NORM = 10.0  # spec D.3
_QUAD = 4  # pictures that quad makes one, and so what the loss of a batch is short of (spec D.3)
_CHECK_EVERY = 50  # steps between looks at the loss on CUDA, where each look waits for the device


class TrainingDivergedError(ValueError):
    """The loss is no longer a number: settings or labels to correct; what was saved is intact."""


@dataclass(frozen=True, slots=True)
class EpochReport:
    """What one epoch of training was like."""

    epoch: int
    losses: tuple[float, float, float, float]  # means: box, obj, cls, their sum
    targets: int  # labels in the last batch
    image_size: int  # pixels, width of the last batch
    memory: str  # "3.1G" reserved on the device; "0G" on a CPU
    lr: float  # of the last step


class Trainer:
    """A model in training.

    Attributes:
        epoch: The next epoch to train.
        step: Steps (batches) done.
        history: (row, unix time) of every finished epoch.
        best_fitness: Best so far, 0 before.
        best_epoch: Its epoch, -1 before.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: Detector,
        train: Sequence[Record],
        val: Sequence[Record],
        device: torch.device,
    ) -> None:
        self.config = config
        self.device = device
        self.model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.freeze:
            freeze(self.model, config.freeze)
        self.ema = Ema(self.model)
        self.schedule = _schedule(config)
        self.optimizer = build_optimizer(
            self.model,
            config.optimizer,
            lr=config.hyp.lr0,
            momentum=config.hyp.momentum,
            weight_decay=scaled_weight_decay(config.hyp.weight_decay, config.batch_size),
        )
        self.scaler = torch.amp.GradScaler("cuda", enabled=device.type == "cuda")
        self.loss = loss_of(self.model, config)
        self.train_reader = ImageReader(train, config.image_size, augmenting=True)
        self.val_reader = ImageReader(val, config.image_size, augmenting=False)
        self.loader = self._training_loader()
        self.val_loader = validation_loader(
            self.val_reader,
            batch_size=2 * config.batch_size,  # no gradients to hold
            workers=config.workers,
            stride=max(model.max_stride, 32),
            pin=device.type == "cuda",
        )
        self.epoch = 0
        self.step = 0
        self.last_update = -1  # step of the last optimizer update
        self.history: list[tuple[ResultsRow, float]] = []
        self.best_fitness = 0.0
        self.best_epoch = -1
        self._class_maps = np.zeros(model.detect.nc)  # of the last evaluation, for image weights

    def _training_loader(self) -> TrainingLoader:
        c = self.config
        samples = TrainingSamples(self.train_reader, c.hyp.augment, seed=c.seed, mosaic=not c.rect)
        return TrainingLoader(
            samples,
            batch_size=c.batch_size,
            workers=c.workers,
            stride=max(self.model.max_stride, 32),
            pin=self.device.type == "cuda",
            quad=c.quad,
        )

    def cache_images(self, progress: Callable[[int, int], None]) -> None:
        """Decodes both sets into memory; before the first epoch, so that workers share it."""
        for reader in (self.train_reader, self.val_reader):
            reader.cache(progress)

    def plan(self) -> Sequence[list[SampleKey]]:
        """Keys of every sample of the next epoch, batch by batch."""
        return self.loader.plan(self.epoch, self._image_weights())

    def train_epoch(self, progress: Callable[[EpochReport], None] = lambda _: None) -> EpochReport:
        """Trains one epoch.

        Args:
            progress: Called after each step with the epoch so far.

        Raises:
            TrainingDivergedError: The loss became NaN or infinite; the state is no longer usable.

        Source: spec D.3, D.8.
        """
        self.model.train()
        mean = torch.zeros(3, device=self.device)
        seen = (0.0, 0.0, 0.0)  # the mean as last copied to the host
        report: EpochReport | None = None
        for i, batch in enumerate(self.loader.epoch(self.epoch, self._image_weights())):
            settings = settings_at(self.step, self.epoch, len(self.loader), self.schedule)
            apply_settings(self.optimizer, settings)
            images = self._scaled(to_float(batch.images, self.device))
            items = self._backward(images, batch.targets.to(self.device))
            mean += (items - mean) / (i + 1)
            looks = self.device.type == "cpu" or (i + 1) % _CHECK_EVERY == 0
            if looks or i + 1 == len(self.loader):
                seen = self._finite(mean, batch)
            if self.step - self.last_update >= settings.accumulate:
                self._update()
            self.step += 1
            report = self._report(seen, batch, images, settings.lr)
            progress(report)
        if report is None:  # not reachable with a non-empty set, which prepare guarantees
            raise ValueError("the training set has no images")
        self.epoch += 1
        return report

    def _backward(self, images: Tensor, targets: Tensor) -> Tensor:
        with autocast(self.device):
            raw = self.model(images)
        total, items = self.loss(raw, targets)
        if self.config.quad:
            total = total * _QUAD
        self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        return items

    def _update(self) -> None:
        """One optimizer update with what was accumulated; an unfinished sum goes on next epoch."""
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _GRADIENT_NORM, foreach=True)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.ema.update(self.model)
        self.last_update = self.step

    def _finite(self, mean: Tensor, batch: Batch) -> tuple[float, float, float]:
        box, obj, cls = mean.tolist()
        if math.isfinite(box + obj + cls):
            return box, obj, cls
        names = [Path(self.train_reader.records[i].name).name for i in batch.indices]
        raise TrainingDivergedError(
            f"epoch {self.epoch}, step {self.step}: the loss is not finite (box, obj, cls: "
            f"{box}, {obj}, {cls}); the batch was {', '.join(names)}. The last saved epoch is "
            "intact: lower lr0 or raise warmup_epochs in the hyperparameters, or check the labels "
            "of these images"
        )

    def _report(
        self, mean: tuple[float, float, float], batch: Batch, images: Tensor, lr: float
    ) -> EpochReport:
        reserved = torch.cuda.memory_reserved() / 1e9 if self.device.type == "cuda" else 0
        return EpochReport(
            epoch=self.epoch,
            losses=(*mean, sum(mean)),
            targets=len(batch.targets),
            image_size=images.shape[3],
            memory=f"{reserved:.3g}G",
            lr=lr,
        )

    def _scaled(self, images: Tensor) -> Tensor:
        """The batch at a random size, 50 to 150 %, if multi-scale is on (spec D.3)."""
        if not self.config.multi_scale:
            return images
        stride = max(self.model.max_stride, 32)
        size = self.config.image_size * (2 if self.config.quad else 1)
        rng = generator(self.config.seed, "multi_scale", self.step)
        side = int(rng.integers(int(size * 0.5), int(size * 1.5) + stride)) // stride * stride
        factor = side / max(images.shape[2:])
        if factor == 1:
            return images
        new_hw = [math.ceil(n * factor / stride) * stride for n in images.shape[2:]]
        return F.interpolate(images, size=new_hw, mode="bilinear", align_corners=False)

    def _image_weights(self) -> np.ndarray | None:
        """Chance of each image, from its classes' AP in the last evaluation (spec C.11)."""
        if not self.config.image_weights:
            return None
        labels = [record.labels for record in self.train_reader.records]
        nc = self.model.detect.nc
        per_class = class_weights(labels, nc) * nc * (1 - self._class_maps) ** 2
        weights = image_weights(labels, per_class)
        return weights if weights.sum() > 0 else None

    def evaluate(self, progress: Callable[[int], None] = lambda _: None) -> Evaluation:
        """Evaluates the EMA model on the validation set."""
        loss = self.loss.fixed()
        found = evaluate(self.ema.model, self.val_loader, loss, self.device, progress)
        self._class_maps = found.metrics.maps(self.model.detect.nc)
        return found

    def record(self, report: EpochReport, found: Evaluation | None, time: float) -> bool:
        """Appends the epoch's row to the history and tells whether it is the best so far.

        Args:
            report: The epoch.
            found: Its evaluation; without one the row says zeros and the fitness counts as 0.
            time: Unix time, for TensorBoard.

        Returns:
            True also for a tie: the later of two equals is the better trained (spec D.8).
        """
        self.history.append((self.row(report, found), time))
        fitness = 0.0 if found is None else found.metrics.fitness
        is_best = math.isfinite(fitness) and fitness >= self.best_fitness
        if is_best:
            self.best_fitness, self.best_epoch = fitness, report.epoch
        return is_best

    def row(self, report: EpochReport, found: Evaluation | None) -> ResultsRow:
        """The row of an epoch; zeros where it was not evaluated."""
        return ResultsRow(
            epoch=report.epoch,
            epochs=self.config.epochs,
            memory=report.memory,
            losses=report.losses,
            targets=report.targets,
            image_size=report.image_size,
            results=(0.0,) * 7 if found is None else found.results,
        )

    @property
    def over(self) -> bool:
        """True when no epoch is left to train, or the fitness has not risen for too long.

        A function of the history alone, so it is the same after a restore(). Without evaluations
        there is no fitness, and nothing stops early.
        """
        patience = self.config.patience
        return self.epoch >= self.config.epochs or 0 < patience <= stalled(self.history)

    @property
    def results_text(self) -> str:
        """The whole results.txt."""
        return "".join(format_row(row) for row, _ in self.history)

    def state(self) -> dict[str, Any]:
        """Everything an exact continuation needs, in full precision; see checkpoint.py."""
        return {
            "epoch": self.epoch - 1,
            "best_fitness": self.best_fitness,
            "training_results": self.results_text,
            "model": self.ema.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "resume": {
                "model": self.model.state_dict(),
                "gradients": [p.grad for p in self.model.parameters()],
                "ema_updates": self.ema.updates,
                "scaler": self.scaler.state_dict(),
                "step": self.step,
                "last_update": self.last_update,
                "best_epoch": self.best_epoch,
                "balance": list(self.loss.balance),
                "class_maps": self._class_maps.tolist(),
                "history": [{**asdict(row), "time": time} for row, time in self.history],
            },
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a state(): the next epoch will be as if never interrupted."""
        resume = state["resume"]
        self.model.load_state_dict(resume["model"])
        for parameter, gradient in zip(self.model.parameters(), resume["gradients"], strict=True):
            parameter.grad = None if gradient is None else gradient.to(self.device).clone()
        self.ema.model.load_state_dict(state["model"])
        self.ema.updates = resume["ema_updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(resume["scaler"])
        self.epoch = state["epoch"] + 1
        self.step = resume["step"]
        self.last_update = resume["last_update"]
        self.best_fitness = state["best_fitness"]
        self.best_epoch = resume["best_epoch"]
        self.loss.balance = list(resume["balance"])
        self._class_maps = np.array(resume["class_maps"])
        self.history = [_row_and_time(entry) for entry in resume["history"]]


def stalled(history: Sequence[tuple[ResultsRow, float]]) -> int:
    """Evaluated epochs since the last with a fitness above all before it; from the start, above 0.

    An equal fitness is none the better, so a run that finds nothing at all stalls too.
    """
    best, count = 0.0, 0
    for row, _ in history:
        if row.is_evaluated:
            better = row.fitness > best
            best, count = (row.fitness, 0) if better else (best, count + 1)
    return count


def loss_of(model: Detector, config: TrainConfig) -> DetectionLoss:
    """The loss of a model at a run's settings."""
    detect = model.detect
    gains = config.hyp.loss_config(
        num_levels=detect.nl,
        num_classes=detect.nc,
        image_size=config.image_size,
        iou=config.iou,
        autobalance=config.autobalance,
    )
    return DetectionLoss(detect.anchors, detect.stride, detect.nc, gains)


def _row_and_time(entry: dict[str, Any]) -> tuple[ResultsRow, float]:
    values = dict(entry)
    time = values.pop("time")
    return ResultsRow(**values), time


def _schedule(config: TrainConfig) -> ScheduleConfig:
    h = config.hyp
    return ScheduleConfig(
        epochs=config.epochs,
        batch_size=config.batch_size,
        lr0=h.lr0,
        lrf=h.lrf,
        momentum=h.momentum,
        warmup_epochs=h.warmup_epochs,
        warmup_momentum=h.warmup_momentum,
        warmup_bias_lr=h.warmup_bias_lr,
        curve=config.lr_curve,
    )
